"""The whole report on made-up arms whose truth is known: written, read back, and read as a person would."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from msd_models import metrics
from msd_models.report import write_report
from pipeline import schemas
from pipeline.config import Report
from pipeline.errors import ConfigError, StageError
from pipeline.stages import BY_NAME, REPORTED
from pipeline.storage import Outcome, Workspace, commit, write_shard

CONFIG = Report(bootstrap_rounds=60, shown_items=3)
SEEDS = (1, 2)
STRENGTH = {
    "deepfm": 0.5, "din": 0.55, "random_vectors": 0.55, "shuffled_vectors": 0.55, "raw_text": 0.6, "msd_frozen": 1.6,
}  # fmt: skip
LIVE_AUC = {"student": 0.52, "tuned": 0.75}
FINDINGS = (0, {})
PLACEBOS = {"random_vectors": "random", "shuffled_vectors": "shuffled", "raw_text": "raw_text"}
EXPOSURES = [0, 0, 3, 4, 7, 18, 30, 60, 120, 700]
NASTY = "<script>alert('x')</script> ﷽ \u202egnp.exe 🦑 & \"quoted\""


def made_up_datasets(root, strength=STRENGTH, num_users=60, rows_per_user=15, vocabulary=NASTY):
    """Every dataset of the report, committed; a stronger arm sees more of the true click probability."""
    workspace = Workspace(root)
    datasets = {name: workspace.dataset(name, "f" * 16, BY_NAME[name].schema) for name in REPORTED}
    for name, dataset in datasets.items():
        dataset.folder.mkdir(parents=True)
        details, outcome = {}, Outcome(rows_in=7, rows_ok=5, rows_rejected=2, reasons={f"bad {vocabulary}": 2})
        if name == "ctr_model":
            details = write_runs(dataset.folder, strength, num_users, rows_per_user)
        elif name == "student":
            details = write_holdout(dataset.folder, vocabulary)
        elif name == "teacher_outputs":
            write_shard(dataset.folder / "part-00000.parquet", teacher_rows(vocabulary))
        elif name == "teacher_quality":
            write_quality(dataset.folder, vocabulary)
        elif name == "audit":
            table = some_rows(schemas.AUDIT, *FINDINGS)
            write_shard(dataset.folder / "part-00000.parquet", table)
            details = {"leaks": {row["leak"]: table.num_rows for row in table.to_pylist()}, "examined": 70}
        elif name == "tuned_student":
            details = {"is_tuned": True, "valid_auc_student": 0.5, "valid_auc_tuned": 0.75, "valid_labels": 2000}
            marks = {name: {"loss": [0.7, 0.6], "valid_auc": {0: 0.5, 20: value}} for name, value in LIVE_AUC.items()}
            (dataset.folder / "curve.json").write_text(json.dumps(marks))
        commit(dataset, replace(outcome, details=details), {"source": "made up", "seconds": 12.5,
                                                            "created_at": "2026-01-02T03:04:05+00:00"})  # fmt: skip
    return datasets


def write_runs(folder, strength, num_users, rows_per_user):
    generator = np.random.default_rng(0)
    num_rows = num_users * rows_per_user
    truth = generator.normal(size=num_rows)
    labels = (generator.random(num_rows) < 1 / (1 + np.exp(-truth))).astype(np.int8)
    (folder / "predictions").mkdir()
    (folder / "runs").mkdir()
    columns = {
        "event_id": pa.array(range(num_rows), pa.int64()),
        "split": ["valid" if number % 3 == 0 else "test" for number in range(num_rows)],
        "user_id": [f"u{number % num_users}" for number in range(num_rows)],
        "item_id": [f"i{number % 40}" for number in range(num_rows)],
        "is_click": pa.array(labels, pa.int8()),
    }
    for arm, weight in strength.items():
        for seed in SEEDS:
            noise = np.random.default_rng(seed + 100 * len(arm)).normal(size=num_rows)
            scores = (1 / (1 + np.exp(-np.clip(weight * truth + noise, -50, 50)))).astype(np.float32)
            pq.write_table(pa.table({**columns, "score": scores}), folder / "predictions" / f"{arm}-{seed}.parquet")
            facts = {"arm": arm, "seed": seed, "params": 1234, "train_seconds": 2.0 * seed, "samples_per_second": 5e4,
                     "epochs": 3, "best_epoch": 2, "valid_auc": [0.6, 0.7, 0.69], **what_it_is(arm)}  # fmt: skip
            (folder / "runs" / f"{arm}-{seed}.json").write_text(json.dumps(facts))
    items = np.arange(num_rows) % 40
    facts = {
        "category": [f"c{item % 3} {NASTY}" for item in items],
        "item_exposures": pa.array([EXPOSURES[item % 10] for item in items], pa.int64()),
        "history_length": pa.array(items % 21, pa.int64()),
        "has_item_vector": items % 9 > 0,
        "has_user_vector": items % 7 > 0,
    }
    pq.write_table(
        pa.table({"event_id": columns["event_id"], "split": columns["split"], **facts}), folder / "rows.parquet"
    )
    split = {"train": 8000, "valid": num_rows // 3, "test": num_rows - num_rows // 3}
    return {"arms": list(strength), "seeds": list(SEEDS), "space_id": "abc123", "split": split, "split_digest": "d1g"}


def what_it_is(arm):
    is_tabular = arm in ("deepfm", "din", "dcnv2", "mlp", "elec_vanilla")
    return {
        "backbone": arm if arm in ("deepfm", "dcnv2", "mlp") else "din",
        "module": "none" if is_tabular else "msd",
        "vectors": None if is_tabular else PLACEBOS.get(arm, "student"),
        "learns_from": "elec_gain" if arm == "elec_vanilla" else "",
    }


def write_holdout(folder, vocabulary):
    rows = [
        {"prompt_id": f"{level}:{number}", "level": level, "entity_id": f"{number} {vocabulary}", "stratum": vocabulary,
         "text": f"title {number} {vocabulary}\n" + "long " * 200, "teacher_explicit": ["Space Opera", vocabulary],
         "teacher_implicit": [], "student_explicit": ["space opera"], "student_implicit": [vocabulary], "f1": 0.5}
        for number in range(6)
        for level in ("item", "user")
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), folder / "holdout.parquet")
    gold = {"rows": 9, "f1_micro": 0.25, "f1_micro_interval": [0.125, 0.375]}
    return {"f1_micro": 0.5, "f1_micro_interval": [0.4, 0.6], "f1_macro": 0.4, "tau": 0.75, "gold_rows": 12,
            "train_rows": 80, "f1_by_list": {"explicit": 0.625, "implicit": 0.375}, "f1_untrained_micro": 0.01,
            "f1_frequent_micro": 0.3, "f1_nearest_micro": 0.35, "gold": gold}  # fmt: skip


def teacher_rows(vocabulary):
    row = {f.name: 0 if pa.types.is_integer(f.type) else vocabulary for f in schemas.TEACHER_OUTPUTS}
    row |= {"reason": None, "explicit_phrases": [vocabulary], "implicit_phrases": [], "prompt_tokens": 30,
            "output_tokens": 20, "reference_ids": []}  # fmt: skip
    return pa.Table.from_pylist([{**row, "prompt_id": f"item:{n}"} for n in range(6)], schema=schemas.TEACHER_OUTPUTS)


def write_quality(folder, vocabulary):
    """What the stage wrote once, with a stratum of any name."""
    facts = json.loads(Path(__file__).with_name("quality.json").read_text(encoding="utf-8"))
    facts["coverage"]["levels"]["item"]["strata"][0]["stratum"] = vocabulary
    (folder / "quality.json").write_text(json.dumps(facts), encoding="utf-8")


def some_rows(schema, count, change):
    """So many rows of a schema, all alike but for their event."""
    row = {f.name: 0 if pa.types.is_integer(f.type) else [] if pa.types.is_map(f.type) else "x" for f in schema}
    row |= {f.name: 0 for f in schema if pa.types.is_timestamp(f.type)}
    return pa.Table.from_pylist([{**row, "event_id": number, **change} for number in range(count)], schema=schema)


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
    assert outcome.details == {"claims": {"msd_frozen": "gain"}}
    assert report["verdict"][0].startswith("msd_frozen beats both of its placebos")


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


def test_too_few_rounds_for_an_interval_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="bootstrap_rounds is 10"):
        write_report(replace(CONFIG, bootstrap_rounds=10), tmp_path)
