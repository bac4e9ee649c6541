"""Datasets on disk: what is read is what was written, and nothing half-written is ever read."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import schemas
from pipeline.errors import BusyError, StageError
from pipeline.storage import Dataset, Outcome, Workspace, commit, conform, held_by_us, write_atomically, write_shard

NUMBERS = pa.schema([pa.field("number", pa.int64(), nullable=False), pa.field("words", pa.list_(pa.string()))])


def dataset_of(folder, shard_sizes, schema=NUMBERS):
    dataset = Dataset(name="numbers", fingerprint="f" * 16, folder=Path(folder), schema=schema)
    dataset.folder.mkdir(exist_ok=True)
    first = 0
    for shard, size in enumerate(shard_sizes):
        numbers = range(first, first + size)
        table = pa.table({"number": pa.array(numbers, pa.int64()), "words": [["w"] * (n % 3) for n in numbers]})
        write_shard(dataset.folder / f"part-{shard:05d}.parquet", table.cast(schema))
        first += size
    return dataset


@settings(max_examples=40)
@given(st.lists(st.integers(0, 12), max_size=6), st.integers(1, 15), st.integers(0, 40))
def test_batches_are_the_rows_in_order_cut_at_exactly_max_rows(sizes, max_rows, first_row):
    with tempfile.TemporaryDirectory() as folder:
        dataset = dataset_of(folder, sizes)
        later = [row for batch in dataset.batches(max_rows, first_row) for row in batch.to_pylist()]
        assert later == dataset.table().to_pylist()[first_row:]
        batches = list(dataset.batches(max_rows))
        assert [batch.num_rows for batch in batches[:-1]] == [max_rows] * (len(batches) - 1)
        assert all(0 < batch.num_rows <= max_rows for batch in batches)
        assert all(batch.schema == NUMBERS for batch in batches)
        rows = [row for batch in batches for row in batch.to_pylist()]
        assert rows == dataset.table().to_pylist()
        assert [row["number"] for row in rows] == list(range(sum(sizes)))
        assert dataset.num_rows() == sum(sizes)


def test_batches_bring_parquet_of_other_writers_to_the_schema(tmp_path):
    foreign = pa.table({"extra": ["x"], "words": pa.array([["a"]], pa.large_list(pa.large_string())), "number": [3]})
    pq.write_table(foreign.set_column(2, "number", pa.array([3], pa.int32())), tmp_path / "part-00000.parquet")
    dataset = Dataset(name="numbers", fingerprint="f", folder=tmp_path, schema=NUMBERS)
    assert next(dataset.batches(5)).to_pylist() == [{"number": 3, "words": ["a"]}]
    assert dataset.table(["number"]).schema.names == ["number"]


def test_an_empty_dataset_has_its_schema_and_no_batch(tmp_path):
    dataset = dataset_of(tmp_path, [])
    assert dataset.table().schema == NUMBERS
    assert list(dataset.batches(3)) == []


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"number": [1]}), "lacks the columns words; it has number"),
        (pa.table({"number": [1, None], "words": [["a"], []]}), "number holds 1 nulls"),
        (pa.table({"number": ["one"], "words": [["a"]]}), "number is string and cannot be int64"),
        (pa.table({"number": [1.5], "words": [["a"]]}), "number is double and cannot be int64"),
        (pa.table({"number": [[1]], "words": [["a"]]}), "number is list.* and cannot be int64"),
    ],
)
def test_conform_refuses_what_does_not_fit_and_says_which_column(table, message):
    with pytest.raises(StageError, match=message):
        conform(table, NUMBERS)


@pytest.mark.parametrize("schema", [value for value in vars(schemas).values() if isinstance(value, pa.Schema)])
def test_every_schema_survives_parquet_with_its_sentences(schema, tmp_path):
    write_shard(tmp_path / "part-00000.parquet", schema.empty_table())
    dataset = Dataset(name="any", fingerprint="f", folder=tmp_path, schema=schema)
    assert dataset.table().schema.equals(schema, check_metadata=True)
    assert all(sentence for _, _, sentence in schemas.describe(schema))


def test_manifest_lists_the_digest_of_every_file_but_hidden_ones(tmp_path):
    dataset = dataset_of(tmp_path / "f", [2, 1])
    (dataset.folder / ".part-00002.parquet.writing").write_bytes(b"half")
    (dataset.folder / "_aside").mkdir()
    (dataset.folder / "_aside" / "part-0.parquet").write_bytes(b"half")
    commit(dataset, Outcome(rows_in=4, rows_ok=3, rows_rejected=1, reasons={"bad": 1}), {"seconds": 1.0})
    assert sorted(dataset.manifest["files"]) == ["part-00000.parquet", "part-00001.parquet"]
    assert dataset.manifest["reasons"] == {"bad": 1}
    assert dataset.details == {}


@pytest.mark.parametrize(
    "outcome",
    [Outcome(rows_in=3, rows_ok=2), Outcome(rows_in=2, rows_ok=2, rows_skipped=1), Outcome(rows_ok=2, rows_skipped=-2)],
)
def test_counts_that_do_not_add_up_are_never_committed(tmp_path, outcome):
    dataset = dataset_of(tmp_path, [2])
    with pytest.raises(StageError, match="rows went in but"):
        commit(dataset, outcome, {})
    assert dataset.manifest is None


def test_without_a_manifest_a_dataset_is_not_made(tmp_path):
    with pytest.raises(StageError, match="numbers is not made yet; run: msd run numbers"):
        dataset_of(tmp_path, [2]).details  # noqa: B018


def test_a_held_dataset_is_busy_until_it_is_let_go(tmp_path):
    dataset = Workspace(tmp_path).dataset("items", "a" * 64, None)
    with held_by_us(dataset), pytest.raises(BusyError, match="items is being made by another run"), held_by_us(dataset):
        pass
    with held_by_us(dataset):
        pass


HOLD_AND_DIE = """
import os, signal, sys
from pathlib import Path
from pipeline.storage import Workspace, held_by_us
with held_by_us(Workspace(Path(sys.argv[1])).dataset("items", "a" * 64, None)):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_lets_go(tmp_path):
    assert subprocess.run([sys.executable, "-c", HOLD_AND_DIE, str(tmp_path)], check=False).returncode == -9
    with held_by_us(Workspace(tmp_path).dataset("items", "a" * 64, None)):
        pass


WRITE_MANY = """
import sys
from pathlib import Path
from pipeline.storage import write_atomically
for number in range(150):
    write_atomically(Path(sys.argv[1]), (sys.argv[2] * 5000).encode())
"""


def test_two_processes_that_write_one_file_never_show_half_of_it(tmp_path):
    path = tmp_path / "run.json"
    write_atomically(path, b"a" * 5000)
    writers = [subprocess.Popen([sys.executable, "-c", WRITE_MANY, str(path), letter]) for letter in "ab"]
    while any(writer.poll() is None for writer in writers):
        assert path.read_bytes() in (b"a" * 5000, b"b" * 5000)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert os.listdir(tmp_path) == ["run.json"]


def test_a_workspace_remembers_the_last_call(tmp_path):
    workspace = Workspace(tmp_path / "work")
    assert workspace.remembered() == {}
    workspace.remember({"source": "movielens-100k", "set": ["a.b=1"]})
    assert Workspace(tmp_path / "work").remembered() == {"source": "movielens-100k", "set": ["a.b=1"]}
    assert json.loads((tmp_path / "work" / "run.json").read_text())["set"] == ["a.b=1"]
