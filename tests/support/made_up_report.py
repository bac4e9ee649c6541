"""Every dataset of the report, made up: arms whose strength is known, names that a page must not take for markup."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import schemas
from pipeline.stages import BY_NAME, REPORTED
from pipeline.storage import Outcome, Workspace, commit, write_shard

SEEDS = (1, 2)
STRENGTH = {
    "deepfm": 0.5, "din": 0.55, "random_vectors": 0.55, "shuffled_vectors": 0.55, "raw_text": 0.6, "msd_frozen": 1.6,
}  # fmt: skip
LIVE_AUC = {"student": 0.52, "tuned": 0.75}
QUALITY = Path(__file__).parents[1] / "msd_models" / "quality.json"
PLACEBOS = {"random_vectors": "random", "shuffled_vectors": "shuffled", "raw_text": "raw_text"}
EXPOSURES = [0, 0, 3, 4, 7, 18, 30, 60, 120, 700]
NASTY = "<script>alert('x')</script> ﷽ \u202egnp.exe 🦑 & \"quoted\""

JUDGED = {"rows": 70, "panel_rows": 50, "norm_least": 12.5, "norm_most": 14.25, "mean_cosine": 0.4375,
          "effective_rank": 20.75, "duplicate_share": 0.125}  # fmt: skip
PUBLISHED = {
    "generation": "0123456789abcdef",
    "checks": {"item_features": JUDGED, "user_features": JUDGED, "coverage": {"items": 1.0}},
    "online_keys": {"item": 7000, "user": 480},
    "bytes_per_key": {"item": 1232.4, "user": 893.0},
}


def made_up_datasets(root, strength=STRENGTH, num_users=60, rows_per_user=15, vocabulary=NASTY, leaks=0):
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
            table = audit_rows(leaks)
            write_shard(dataset.folder / "part-00000.parquet", table)
            details = {"leaks": {"history": leaks} if leaks else {}, "examined": 70}
        elif name == "tuned_student":
            details = {"is_tuned": True, "valid_auc_student": 0.5, "valid_auc_tuned": 0.75, "valid_labels": 2000}
            marks = {name: {"loss": [0.7, 0.6], "valid_auc": {0: 0.5, 20: value}} for name, value in LIVE_AUC.items()}
            (dataset.folder / "curve.json").write_text(json.dumps(marks))
        elif name == "publication":
            details = PUBLISHED
        facts = {"source": "made up", "seconds": 12.5, "created_at": "2026-01-02T03:04:05+00:00"}
        commit(dataset, replace(outcome, details=details), facts | {"settings": {"mask": "popular", "top_k": 5}})
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
        "settings": own_settings(arm),
    }


def own_settings(arm):
    if arm.startswith("msd_k_"):
        return {"top_k": int(arm.removeprefix("msd_k_"))}
    return {"mask": arm.removeprefix("msd_mask_")} if arm.startswith("msd_mask_") else {}


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
    facts = json.loads(QUALITY.read_text(encoding="utf-8"))
    facts["coverage"]["levels"]["item"]["strata"][0]["stratum"] = vocabulary
    (folder / "quality.json").write_text(json.dumps(facts), encoding="utf-8")


def audit_rows(count):
    row = {f.name: 0 if pa.types.is_integer(f.type) or pa.types.is_timestamp(f.type) else "x" for f in schemas.AUDIT}
    row |= {"leak": "history", "evidence": "the history holds item i9 of 2024-01-03, after the row"}
    return pa.Table.from_pylist([{**row, "event_id": number} for number in range(count)], schema=schemas.AUDIT)
