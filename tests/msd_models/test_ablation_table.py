"""The ablation tables from made-up arms whose truth is known: every page says the same numbers."""

import xml.etree.ElementTree as ET

import pytest
from made_up_report import made_up_datasets

from msd_models.ablation_table import draw, markdown, measure, text_lines
from msd_models.metrics import rela_impr
from pipeline.ablation import table_arms
from pipeline.config import CtrModel

TABLES = {number: table_arms(number, CtrModel()) for number in (2, 3)}
WEAK = {"deepfm": 0.5, "din": 0.5, "dcnv2": 0.4, "mlp": 0.4, "random_vectors": 0.5, "shuffled_vectors": 0.5}


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    arms = dict.fromkeys([*TABLES[2], *TABLES[3]])
    strength = {arm: WEAK.get(arm, 1.0) for arm in arms} | {"msd": 2.0, "msd_no_user": 0.3}
    datasets = made_up_datasets(tmp_path_factory.mktemp("work"), strength=strength, num_users=100)
    return measure(datasets["ctr_model"], datasets["audit"], datasets["tuned_student"], TABLES)


def test_table_2_has_every_model_and_relative_improvement_over_deepfm(facts):
    rows = {row["arm"]: row for row in facts["tables"]["2"]}
    assert tuple(rows) == TABLES[2]
    assert rows["deepfm"]["rela_impr"] == [0, 0, 0]
    for row in rows.values():
        assert row["rela_impr"][1] == pytest.approx(rela_impr(row["auc"], rows["deepfm"]["auc"]))
        assert row["auc_ci"][0] <= row["auc"] <= row["auc_ci"][1]
    assert rows["msd"]["rela_impr"][0] > 0


def test_table_3_shows_what_each_part_is_worth(facts):
    rows = {row["arm"]: row for row in facts["tables"]["3"]}
    assert tuple(rows) == TABLES[3]
    assert rows["msd"]["delta_auc_vs_msd"] == [0, 0, 0]
    assert rows["msd_no_user"]["delta_auc_vs_msd"][2] < 0, "it was planted to matter"
    for row in rows.values():
        assert row["delta_auc_vs_msd"][1] == pytest.approx(row["auc"] - rows["msd"]["auc"])
    labels = [row["label"] for row in rows.values()]
    assert labels[:4] == ["MSD (mask popular, k = 5)", "without LoRA", "without item fusion", "without user level"]
    assert "k = 10" in labels
    assert len(set(labels)) == len(labels)


def test_pages_say_the_same_numbers(facts):
    lines, page = text_lines(facts), markdown(facts)
    for rows in facts["tables"].values():
        for row in rows:
            assert any(line.startswith(row["label"]) and f"{row['auc']:.4f}" in line for line in lines)
            assert f"| {row['label']} | {row['auc']:.4f} |" in page
    assert "0 of 70 rows know their future" in lines[0]
    assert lines[-len(facts["verdict"]) :] == facts["verdict"]
    assert max(len(line) for line in lines[2 : -len(facts["verdict"])]) <= 116


@pytest.mark.parametrize("tables", [("2", "3"), ("3",)])
def test_pictures_hold_every_arm_and_are_the_same_each_time(tmp_path, facts, tables):
    chosen = {**facts, "tables": {number: facts["tables"][number] for number in tables}}
    draw(tmp_path, chosen)
    words = {element.text for element in ET.fromstring((tmp_path / "ablation.svg").read_bytes()).iter() if element.text}
    assert {row["label"] for number in tables for row in facts["tables"][number]} <= words
    before = (tmp_path / "ablation.png").read_bytes()
    assert before.startswith(b"\x89PNG")
    draw(tmp_path, chosen)
    assert (tmp_path / "ablation.png").read_bytes() == before


def test_of_chance_nothing_is_a_percentage_and_an_untuned_student_is_said_to_be_one(tmp_path):
    strength = {"deepfm": 0.0, "din": 0.5, "msd": 2.0}
    datasets = made_up_datasets(tmp_path, strength=strength, num_users=30)
    manifest = datasets["tuned_student"].folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"is_tuned": true', '"is_tuned": false'))
    facts = measure(datasets["ctr_model"], datasets["audit"], datasets["tuned_student"], {2: tuple(strength)})
    assert {row["rela_impr"] for row in facts["tables"]["2"]} == {None}
    lines = text_lines(facts)
    assert "the student stays as it is" in lines[0]
    assert lines[4].split()[4:6] == ["–", "–"]
    assert "deepfm may be no better than chance" in lines[2]


def test_with_leaks_the_tables_claim_nothing(tmp_path):
    strength = {"deepfm": 0.5, "din": 0.5, "raw_text": 0.5, "shuffled_vectors": 0.5, "msd": 2.0}
    datasets = made_up_datasets(tmp_path, strength=strength, num_users=20, leaks=3)
    facts = measure(datasets["ctr_model"], datasets["audit"], datasets["tuned_student"], {2: tuple(strength)})
    assert facts["verdict"][0].startswith("No claim is made")
