"""The whole report on made-up arms whose truth is known: written, read back, and read as a person would."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_up_report import NASTY, SEEDS, STRENGTH, made_up_datasets

from msd_models import metrics
from msd_models.report import write_report
from pipeline.config import Report
from pipeline.errors import StageError
from pipeline.stages import REPORTED, stages_for

CONFIG = Report(bootstrap_rounds=60, shown_items=3)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The datasets, the folder and the parsed report.json."""
    datasets = made_up_datasets(tmp_path_factory.mktemp("work"))
    folder = datasets["items"].folder.parents[1] / "report" / "0123"
    outcome = write_report(CONFIG, folder, **datasets)
    return datasets, folder, json.loads((folder / "report.json").read_text(encoding="utf-8")), outcome


def arm_of(report, name):
    return next(arm for arm in report["arms"] if arm["name"] == name)


def test_report_has_every_key_that_other_programs_read(written):
    report = written[2]
    assert report.keys() >= {"source", "created_at", "space_id", "split", "seeds", "arms", "distillation", "teacher",
                             "embedding", "publish", "stages", "verdict"}  # fmt: skip
    assert report["split"].keys() >= {"train", "valid", "test", "digest"}
    for arm in report["arms"]:
        assert arm.keys() >= {"name", "auc", "auc_ci", "gauc_impression", "gauc_user", "logloss", "pcoc", "ece",
                              "rela_impr", "delta_auc_vs", "params", "train_seconds", "samples_per_second"}  # fmt: skip
    assert report["distillation"].keys() >= {"f1_micro", "f1_macro", "tau", "gold_rows"}
    assert report["teacher"].keys() >= {"rows", "rejected", "tokens", "seconds"}
    assert arm_of(report, "msd_frozen")["delta_auc_vs"].keys() == STRENGTH.keys() - {"msd_frozen"}
    assert [stage["name"] for stage in report["stages"]] == list(REPORTED)


def test_numbers_are_those_of_the_test_rows(written):
    datasets, _, report, _ = written
    means = {}
    for arm in STRENGTH:
        values = []
        for seed in SEEDS:
            rows = pq.read_table(datasets["ctr_model"].folder / "predictions" / f"{arm}-{seed}.parquet").to_pandas()
            rows = rows[rows["split"] == "test"]
            values.append(metrics.auc(rows["is_click"].to_numpy(), rows["score"].to_numpy()))
        means[arm] = sum(values) / len(values)
        assert arm_of(report, arm)["auc"] == pytest.approx(means[arm])
    msd = arm_of(report, "msd_frozen")
    assert msd["delta_auc_vs"]["din"][1] == pytest.approx(means["msd_frozen"] - means["din"])
    assert msd["rela_impr"] == pytest.approx(metrics.rela_impr(means["msd_frozen"], means["deepfm"]))
    assert arm_of(report, "deepfm")["rela_impr"] == 0
    assert msd["train_seconds"] == 3.0
    assert report["teacher"]["tokens"] == 120


def test_intervals_hold_their_middle_and_the_strong_arm_is_found(written):
    report, outcome = written[2], written[3]
    for arm in report["arms"]:
        assert arm["auc_ci"][0] < arm["auc"] < arm["auc_ci"][1]
        assert all(low <= mean <= high for low, mean, high in arm["delta_auc_vs"].values())
    assert report["claims"] == [{"arm": "msd_frozen", "finding": "gain"}]
    assert outcome.details == {"claims": {"msd_frozen": "gain"}, "digest": report["digest"]}
    assert report["verdict"][0].startswith("msd_frozen beats both of its placebos")


def test_three_intervals_stand_beside_each_other_and_mean_the_same_difference(written):
    for arm in written[2]["arms"]:
        kinds = [arm[name] for name in ("delta_auc_vs", "delta_auc_users_vs", "delta_auc_delong_vs")]
        assert kinds[0].keys() == kinds[1].keys() == kinds[2].keys()
        for other, delta in kinds[0].items():
            assert kinds[1][other][1] == pytest.approx(delta[1])
            assert kinds[2][other][1] == pytest.approx(delta[1])
            assert kinds[2][other][2] - kinds[2][other][0] == pytest.approx(
                kinds[1][other][2] - kinds[1][other][0], rel=0.6
            )


def test_cold_items_and_other_parts_are_judged_beside_the_whole(written):
    report = written[2]
    assert report["cold"]["exposures_below"] == 10
    assert report["cold"]["rows"] == sum(bucket["rows"] for bucket in report["exposure"][:2]) + sum(
        part["rows"] for part in report["slices"] if part["family"] == "decile" and part["name"] == "7"
    )
    msd = next(arm for arm in report["cold"]["arms"] if arm["name"] == "msd_frozen")
    assert msd["delta_auc_vs"].keys() == STRENGTH.keys() - {"msd_frozen"}
    assert msd["delta_auc_vs"]["din"][0] > 0
    families = {part["family"] for part in report["slices"]}
    assert families == {"decile", "category", "history", "item_vector", "user_vector"}
    for family in families:
        parts = [part for part in report["slices"] if part["family"] == family]
        assert sum(part["rows"] for part in parts) == report["test"]["rows"]
        assert sum(part["clicks"] for part in parts) == report["test"]["clicks"]


def test_leaks_are_named_and_take_every_claim_back(tmp_path, page_of):
    datasets = made_up_datasets(tmp_path, num_users=20, leaks=7)
    outcome = write_report(CONFIG, tmp_path / "report" / "0", **datasets)
    assert outcome.details["claims"] == {"msd_frozen": "no_claim"}
    report = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    assert report["audit"]["leaks"] == {"history": 7}
    assert len(report["audit"]["first"]) == 5
    words = "".join(page_of((tmp_path / "report" / "report.html").read_text(encoding="utf-8")).words)
    assert "7 findings in 70 rows (history 7)" in words
    assert "after the row" in words
    assert "beats both" not in words


def test_a_vanilla_network_is_judged_by_what_it_keeps(tmp_path, page_of):
    strength = STRENGTH | {"elec_gain": 1.6, "elec_vanilla": 1.2}
    write_report(CONFIG, tmp_path / "report" / "0", **made_up_datasets(tmp_path, strength=strength))
    report = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    gap = arm_of(report, "elec_vanilla")["gap_recovered"]
    assert (gap["base"], gap["gain"]) == ("din", "elec_gain")
    auc = {arm["name"]: arm["auc"] for arm in report["arms"]}
    share = (auc["elec_vanilla"] - auc["din"]) / (auc["elec_gain"] - auc["din"])
    assert gap["share"][1] == pytest.approx(share)
    assert gap["share"][0] < share < gap["share"][2]
    assert {"arm": "elec_vanilla", "finding": "recovers"} in report["claims"]
    words = "".join(page_of((tmp_path / "report" / "report.html").read_text(encoding="utf-8")).words)
    assert "What is kept without reading text" in words


def test_exposure_buckets_share_out_the_test_rows(written):
    report = written[2]
    assert [bucket["exposures"] for bucket in report["exposure"]] == [
        [0, 0], [1, 4], [5, 19], [20, 99], [100, 499], [500, None]
    ]  # fmt: skip
    assert sum(bucket["rows"] for bucket in report["exposure"]) == report["test"]["rows"] == 600
    assert sum(bucket["clicks"] for bucket in report["exposure"]) == report["test"]["clicks"]


def test_writing_again_gives_the_same_bytes_and_the_copies_are_equal(written, tmp_path):
    datasets, folder, _, _ = written
    again = tmp_path / "report" / "0123"
    write_report(CONFIG, again, **datasets)
    for name in ("report.json", "report.html"):
        content = (folder / name).read_bytes()
        assert (again / name).read_bytes() == content
        assert (folder.parent / name).read_bytes() == content


def test_page_is_well_formed_and_brings_everything_itself(written, page_of):
    text = (written[1] / "report.html").read_text(encoding="utf-8")
    page = page_of(text)
    assert page.open == []
    assert not page.tags & {"script", "img", "link", "iframe", "object", "video"}
    assert not [name for name, _ in page.attributes if name in ("src", "href") or name.startswith("on")]
    assert not re.search(r"https?://|url\(|@import", text)


def test_catalogue_text_is_shown_and_never_becomes_markup(written, page_of):
    text = (written[1] / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text
    words = "".join(page_of(text).words)
    assert NASTY in words
    assert "Teacher's reasoning" in words
    assert words.count("F1 0.50") == CONFIG.shown_items


def test_page_tells_the_student_from_its_peers_and_from_gold(written, page_of):
    words = " ".join("".join(page_of((written[1] / "report.html").read_text(encoding="utf-8")).words).split())
    assert "0.500 [0.400, 0.600] micro" in words
    assert "0.300 with the stratum's most frequent phrases, 0.350 with those of the nearest text" in words
    assert "person wrote for 9 texts the student's F1 is 0.250 [0.125, 0.375]" in words
    assert "Is it news?" in words
    assert "τ = 0.41" in words


def test_page_says_what_went_online_and_how_the_vectors_were_judged(written, page_of):
    words = " ".join(" ".join(page_of((written[1] / "report.html").read_text(encoding="utf-8")).words).split())
    assert "Generation 01234567 went online with 7,000 items and 480 users, 1,232 and 893 bytes a key" in words
    assert "item_features 70 50 0.438 20.8 12.5 to 14.2 12.5%" in words


def test_page_shows_every_arm_and_the_verdict_first(written, page_of):
    text, report = (written[1] / "report.html").read_text(encoding="utf-8"), written[2]
    words = "".join(page_of(text).words)
    for arm in report["arms"]:
        assert f"{arm['auc']:.4f}" in words
    assert words.index("beats both of its placebos") < words.index("Results")


@pytest.mark.parametrize("arms", [("din",), ("deepfm", "msd_frozen"), ("din", "raw_text", "msd", "elec_gain", "kar")])
def test_any_set_of_arms_makes_a_report(tmp_path, arms):
    datasets = made_up_datasets(tmp_path, strength=dict.fromkeys(arms, 0.5), num_users=20)
    write_report(CONFIG, tmp_path / "report" / "0", **datasets)
    report = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    assert [arm["name"] for arm in report["arms"]] == list(arms)
    assert not any(claim["finding"] == "gain" for claim in report["claims"])


def test_arms_that_score_alike_differ_by_nothing_and_claim_nothing(tmp_path):
    datasets = made_up_datasets(tmp_path, strength=dict.fromkeys(STRENGTH, 1e9))
    write_report(CONFIG, tmp_path / "report" / "0", **datasets)
    report = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    assert arm_of(report, "msd_frozen")["delta_auc_vs"]["raw_text"] == [0, 0, 0]
    assert report["claims"] == [{"arm": "msd_frozen", "finding": "no_difference"}]
    assert "not distinguishable from its placebos" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")


def rewrite(path, change):
    pq.write_table(change(pq.read_table(path)), path)


def with_column(name, values):
    def change(table):
        at = table.column_names.index(name)
        return table.set_column(at, name, pa.array(values(table), table.schema.field(name).type))

    return change


BREAKAGES = {
    "a run scored fewer rows": (lambda table: table.slice(0, 100), "scored other test events"),
    "labels differ": (
        with_column("is_click", lambda t: 1 - t.column("is_click").to_numpy()),
        "scored other test events or labels",
    ),
    "a score is NaN": (with_column("score", lambda t: [float("nan")] * t.num_rows), "no probability"),
    "a score is a logit": (with_column("score", lambda t: [2.5] * t.num_rows), "no probability"),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_runs_that_cannot_be_compared_are_an_error_with_a_name(tmp_path, breakage):
    change, message = BREAKAGES[breakage]
    datasets = made_up_datasets(tmp_path, num_users=10)
    rewrite(datasets["ctr_model"].folder / "predictions" / "msd_frozen-2.parquet", change)
    with pytest.raises(StageError, match=rf"msd_frozen-2|test scores.*{message}"):
        write_report(CONFIG, tmp_path / "report" / "0", **datasets)


def test_a_test_split_of_one_class_says_so(tmp_path):
    datasets = made_up_datasets(tmp_path, strength={"din": 1.0}, num_users=10)
    for seed in SEEDS:
        path = datasets["ctr_model"].folder / "predictions" / f"din-{seed}.parquet"
        rewrite(path, with_column("is_click", lambda table: [0] * table.num_rows))
    with pytest.raises(StageError, match=r"0 clicks in 100 rows.*\[labels\] split"):
        write_report(CONFIG, tmp_path / "report" / "0", **datasets)


def test_a_missing_run_names_the_file(tmp_path):
    datasets = made_up_datasets(tmp_path, num_users=10)
    (datasets["ctr_model"].folder / "predictions" / "din-1.parquet").unlink()
    with pytest.raises(StageError, match=r"predictions/din-1\.parquet"):
        write_report(CONFIG, tmp_path / "report" / "0", **datasets)


def test_tabular_arms_alone_have_a_report_without_a_teacher(tmp_path):
    datasets = made_up_datasets(tmp_path / "work", strength={"deepfm": 0.5, "din": 0.55})
    read = {name: dataset for name, dataset in datasets.items() if name in stages_for(())["report"].inputs}
    folder = tmp_path / "work" / "report" / "0123"
    write_report(CONFIG, folder, **read)
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert [report[part] for part in ("teacher", "distillation", "tuning", "embedding", "publish")] == [{}] * 5
    assert [stage["name"] for stage in report["stages"]] == list(read)
    assert "student" not in read
    page = (folder / "report.html").read_text(encoding="utf-8")
    for absent in ("What the teacher said", "tuned by clicks", "The teacher read"):
        assert absent not in page
