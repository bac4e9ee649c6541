"""The curve's table and pictures, from points with known numbers."""

import xml.etree.ElementTree as ET

import pytest

from msd_models.distillation_curve import draw_curve, table_lines


def arm(auc, delta):
    return {"auc": auc, "auc_ci": [auc - 0.01, auc + 0.01], "auc_by_seed": [auc - 0.002, auc + 0.002],
            "delta_auc_vs": {"raw_text": delta}}  # fmt: skip


def point(share, f1, auc, augmented=False):
    return {"share": share, "augmented": augmented, "train_rows": int(1000 * share), "f1_micro": f1,
            "f1_micro_interval": [f1 - 0.05, f1 + 0.05], "f1_untrained_micro": 0.01,
            "arms": {"msd_frozen": arm(auc, [auc - 0.53, auc - 0.52, auc - 0.51]), "din": arm(0.50, None),
                     "raw_text": arm(0.52, None), "shuffled_vectors": arm(0.49, None)}}  # fmt: skip


POINTS = [point(0.1, 0.1, 0.55), point(0.1, 0.15, 0.56, True), point(1.0, 0.6, 0.70), point(1.0, 0.62, 0.71, True)]


def test_the_table_has_a_line_a_point_and_one_a_reference():
    header, *lines = table_lines(POINTS)
    assert len(lines) == len(POINTS) + 3
    assert len({len(line) for line in (header, *lines[: len(POINTS)])}) == 1
    assert lines[0].split() == ["10%", "no", "100", "0.100", "[0.050,", "0.150]", "0.5500", "0.5480…0.5520", "+0.0300",
                                "[+0.0200,", "+0.0400]"]  # fmt: skip
    assert lines[-3].startswith("din: AUC 0.5000")


@pytest.mark.parametrize("points", [POINTS, POINTS[:1], POINTS[1:2]])
def test_pictures_are_whole_and_the_same_each_time(tmp_path, points):
    draw_curve(tmp_path, points)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curve.png", "curve.svg"]
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    words = {element.text for element in ET.fromstring((tmp_path / "curve.svg").read_bytes()).iter() if element.text}
    assert {f"{one['share']:.0%}" for one in points} | {"din", "raw_text"} <= words
    before = (tmp_path / "curve.svg").read_bytes()
    draw_curve(tmp_path, points)
    assert (tmp_path / "curve.svg").read_bytes() == before
