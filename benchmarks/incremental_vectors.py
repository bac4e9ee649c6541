"""One item in a hundred changed: the stage's wall time against that of the full run, in the same work folder.

The stage is item_vectors as the runner makes it: reading items, rendering and hashing texts, encoding, writing shards,
digesting files, committing. The full run begins with nothing kept. Then rounds: each changes another share of the items
(titles of a made-up catalogue, some twenty tokens with their attributes), makes the dataset again under its new
fingerprint, and holds every unchanged item's vector against the one before, byte for byte. The student has random
weights in the shape that is asked for, which costs what a trained one does; --student takes a committed student's
folder of its own.

`python benchmarks/incremental_vectors.py [--items 100000] [--layers 6] [--rounds 3] [--student FOLDER]`
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from msd_models.language_model import load_tokenizer
from msd_models.student_layers import initial_student
from pipeline import schemas
from pipeline.config import Student
from pipeline.runner import Plan, make_plan, run
from pipeline.settings import resolve
from pipeline.source import parse_source
from pipeline.storage import Dataset, Outcome, Workspace, commit, write_shard

WANTED = 0.03
CHANGED_SHARE = 0.01
TABLE_ROWS = 65_536
START = datetime(2024, 1, 1, tzinfo=UTC)
WORDS = (
    "adventure", "battery", "ceramic", "detective", "electric", "folding", "garden", "hand-made", "island", "jazz",
    "kettle", "lantern", "midnight", "northern", "organic", "portable", "quartz", "river", "stainless", "travel",
    "umbrella", "vintage", "waterproof", "xylophone", "yellow", "zinc",
)  # fmt: skip
TOML = '[items]\npath = "items.csv"\n[events]\npath = "events.csv"\n'


def main() -> None:
    """Measures a full run and rounds of small changes; prints the ratio."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        root = Path(folder)
        titles = [_title(number, round_number=0) for number in range(arguments.items)]
        full, before = _run(_plan(root, 0, arguments.set), titles, arguments)
        print(f"full run: {arguments.items:,} items in {full:.1f} s, {arguments.items / full:,.0f} items/s")
        seconds = []
        for round_number in range(1, arguments.rounds + 1):
            changed = range(round_number, arguments.items, round(1 / CHANGED_SHARE))
            for number in changed:
                titles[number] = _title(number, round_number)
            took, after = _run(_plan(root, round_number, arguments.set), titles, arguments)
            _check(before, after, changed)
            print(
                f"round {round_number}: {len(changed):,} items changed, {took:.2f} s, {took / full:.2%} of the full run"
            )
            seconds.append(took)
            before = after
        ratio = statistics.median(seconds) / full
        print(f"median / full run: {ratio:.2%} (wanted {WANTED:.0%}): {'kept' if ratio <= WANTED else 'MISSED'}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--layers", type=int, default=6, help="of the student")
    parser.add_argument("--base-model", default="smollm2-135m-instruct", help="whose shape the student has")
    parser.add_argument("--student", type=Path, help="a committed student's folder, instead of one of random weights")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="for the work folder; default: that for temporary files")
    parser.add_argument("--set", action="append", default=[], metavar="item_vectors.key=value")
    return parser.parse_args()


def _plan(root: Path, round_number: int, overrides: Sequence[str]) -> Plan:
    """Each round is another source, so that its datasets have fingerprints of their own in the same work folder."""
    for name in ("items", "events"):
        (root / f"{name}.csv").write_text(f"{name}\n{round_number if name == 'items' else ''}\n")
    return make_plan(Workspace(root / "work"), parse_source("benchmark", TOML, root), resolve("small", overrides))


def _run(plan: Plan, titles: list[str], arguments: argparse.Namespace) -> tuple[float, Dataset]:
    """(seconds of the stage alone, its dataset)."""
    _commit_tables(plan, titles)
    _commit_student(plan, titles, arguments)
    started = time.monotonic()
    assert run(plan, ["item_vectors"]) == ["item_vectors"]
    return time.monotonic() - started, plan.dataset("item_vectors")


def _commit_tables(plan: Plan, titles: list[str]) -> None:
    count = len(titles)
    ids = [f"item-{number}" for number in range(count)]
    attributes = [[("maker", WORDS[n % 26]), ("price", f"{n % 90 + 9}.90")] for n in range(count)]
    same = {"category": ["c"] * count, "available_at": [None] * count}
    items = {"item_id": ids, "title": titles, "text": titles, "attributes": attributes, **same}
    stats = {"item_id": ids, "exposure_rank": list(range(1, count + 1))}
    stats |= {name: [0] * count for name in ("exposures", "clicks", "ctr_shrunk", "category_ctr")}
    stats |= {name: [START] * count for name in ("first_seen_at", "counted_until")}
    for name, columns, schema in (("items", items, schemas.ITEMS), ("item_stats", stats, schemas.ITEM_STATS)):
        dataset = plan.dataset(name)
        dataset.folder.mkdir(parents=True, exist_ok=True)
        table = pa.table(columns, schema=schema)
        for shard, start in enumerate(range(0, count, TABLE_ROWS)):
            write_shard(dataset.folder / f"part-{shard:05d}.parquet", table.slice(start, TABLE_ROWS))
        commit(dataset, Outcome(rows_in=count, rows_ok=count), {})


def _commit_student(plan: Plan, titles: list[str], arguments: argparse.Namespace) -> None:
    """The first round's student is that of all: only the source has changed."""
    dataset, made = plan.dataset("student"), plan.workspace.root / "the-student"
    if not made.exists():
        if arguments.student:
            shutil.copytree(arguments.student / "model", made / "model")
        else:
            settings = Student(base_model=arguments.base_model, num_layers=arguments.layers)
            model, tokenizer = initial_student(settings, titles[:1000])
            model.save_pretrained(made / "model")
            tokenizer.save_pretrained(made / "model")
        tokens = [len(ids) for ids in load_tokenizer(made / "model")(titles[:1000])["input_ids"]]
        print(f"student: {arguments.student or arguments.layers} layers; {statistics.mean(tokens):.1f} tokens a title")
    shutil.copytree(made, dataset.folder)
    commit(dataset, Outcome(), {})


def _title(number: int, round_number: int) -> str:
    words = [WORDS[(number * 7 + place * (number % 11 + 1) + round_number) % len(WORDS)] for place in range(6)]
    return " ".join([*words, str(number), *(["new"] if round_number else [])])


def _check(before: Dataset, after: Dataset, changed: range) -> None:
    """Unchanged items have the very bytes they had, and exactly the changed ones were read."""
    details = after.details
    assert details["texts_read"] == len(changed), details
    old, new = (_matrix(dataset) for dataset in (before, after))
    is_same_N = (old.view(np.uint32) == new.view(np.uint32)).all(axis=1)
    is_changed_N = np.zeros(len(old), dtype=bool)
    is_changed_N[list(changed)] = True
    assert is_same_N[~is_changed_N].all(), "an unchanged item's vector has other bytes"
    assert not is_same_N[is_changed_N].any(), "a changed item's vector is the old one"


def _matrix(dataset: Dataset) -> np.ndarray:
    flat = [part.column("vector").chunk(0).flatten().to_numpy() for part in map(_table, dataset.shards())]
    return np.concatenate(flat).reshape(dataset.num_rows(), -1)


def _table(path: Path) -> pa.Table:
    return pq.read_table(path, columns=["vector"], partitioning=None).combine_chunks()


if __name__ == "__main__":
    main()
