"""Committed inputs of item_vectors at the fingerprints of a real plan: items with texts, and an untrained student."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from msd_models.student_layers import initial_student
from pipeline import schemas
from pipeline.config import Student
from pipeline.runner import Plan, make_plan
from pipeline.settings import resolve
from pipeline.source import load_source
from pipeline.storage import Dataset, Outcome, Workspace, commit, write_shard

START = datetime(2024, 1, 1, tzinfo=UTC)
WORDS = ("amber", "basalt", "cobalt", "dune", "ember", "fjord", "glacier", "harbour")
TOML = '[items]\npath = "items.csv"\n[events]\npath = "events.csv"\n[users]\npath = "users.csv"\n'


def plan_in(root: Path, *overrides: str, work: str = "work") -> Plan:
    """The plan of a small source in root, whose files are only there to be digested."""
    for name in ("items", "events", "users"):
        (root / f"{name}.csv").write_text(f"{name}\n1\n")
    (root / "mine.toml").write_text(TOML)
    return make_plan(Workspace(root / work), load_source(str(root / "mine.toml")), resolve("tiny", overrides))


def long_texts(number: int, words: int = 60) -> list[str]:
    """Texts of so many words, no two alike."""
    return [" ".join(WORDS[(n * 3 + w * w) % len(WORDS)] for w in range(words)) + f" {n}" for n in range(number)]


def commit_inputs(plan: Plan, texts: list[str], num_layers: int = 2) -> None:
    """Items with these texts, their statistics and a student of random weights, as if stages had made them."""
    items = [
        {"item_id": f"i{n}", "title": text[:20], "text": text, "category": "c", "attributes": [], "available_at": None}
        for n, text in enumerate(texts)
    ]
    counts = {"exposures": 0, "clicks": 0, "ctr_shrunk": 0.5, "category_ctr": 0.5, "counted_until": START}
    stats = [counts | {"item_id": f"i{n}", "exposure_rank": n + 1, "first_seen_at": START} for n in range(len(texts))]
    for name, rows, schema in (("items", items, schemas.ITEMS), ("item_stats", stats, schemas.ITEM_STATS)):
        dataset = _empty(plan, name)
        write_shard(dataset.folder / "part-00000.parquet", pa.Table.from_pylist(rows, schema=schema))
        commit(dataset, Outcome(rows_in=len(rows), rows_ok=len(rows)), {})
    dataset = _empty(plan, "student")
    if not (dataset.folder / "model").exists():
        import torch

        torch.manual_seed(3)
        model, tokenizer = initial_student(Student(base_model="tiny-random", num_layers=num_layers), texts)
        model.save_pretrained(dataset.folder / "model")
        tokenizer.save_pretrained(dataset.folder / "model")
    commit(dataset, Outcome(), {})


def _empty(plan: Plan, name: str) -> Dataset:
    dataset = plan.dataset(name)
    dataset.folder.mkdir(parents=True, exist_ok=True)
    return dataset
