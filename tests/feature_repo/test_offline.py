"""Files of a publication hold exactly the table's vectors, and a table that is not fit ends in a sentence."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo import offline
from feature_repo.definitions import USER_HISTORIES, item_plans, user_plans
from pipeline import schemas
from pipeline.errors import SpaceMismatch, StageError
from pipeline.storage import Dataset, Workspace


def write_items(build: ModuleType, rows: list[dict], root: Path) -> tuple[Path, Dataset]:
    workspace = Workspace(root)
    vectors = build.committed(workspace, "item_vectors", schemas.ITEM_VECTORS, rows)
    folder = workspace.dataset("item_features", "f" * 16, None).folder
    folder.mkdir(parents=True, exist_ok=True)
    facts = offline.vector_facts(vectors)
    offline.write_vector_files(vectors, facts, item_plans(folder, facts.space_id)[0], "available_at", folder)
    return folder, vectors


def test_vectors_file_rows_and_offline_table_agree_with_the_dataset(build: ModuleType, tmp_path: Path):
    folder, vectors = write_items(build, build.item_vector_rows(37), tmp_path)
    table = vectors.table()
    stored_ND = np.load(folder / "vectors.npy", mmap_mode="r")
    assert stored_ND.dtype == np.dtype("float32")
    assert stored_ND.flags["C_CONTIGUOUS"]
    assert stored_ND.tolist() == table.column("vector").to_pylist()
    rows = pq.read_table(folder / "rows.parquet")
    assert rows.column("vector_row").to_pylist() == list(range(37))
    assert rows.column("item_id").to_pylist() == table.column("item_id").to_pylist()
    assert rows.column("content_hash").to_pylist() == table.column("content_hash").to_pylist()
    joined = pa.concat_tables(pq.read_table(path) for path in sorted((folder / "offline").glob("*.parquet")))
    assert joined.column("event_timestamp").to_pylist() == table.column("available_at").to_pylist()
    assert joined.column("vector").to_pylist() == table.column("vector").to_pylist()


def test_more_rows_than_a_part_keep_their_order(build: ModuleType, tmp_path: Path):
    rows = [
        {**build.item_vector_rows(1)[0], "item_id": f"i{number}", "vector": [number + 1.0]} for number in range(40_000)
    ]
    folder, _ = write_items(build, rows, tmp_path)
    assert len(list((folder / "offline").glob("*.parquet"))) == 3
    assert (np.load(folder / "vectors.npy", mmap_mode="r")[:, 0] == np.arange(1, 40_001)).all()
    written = pq.read_table(folder / "rows.parquet")
    assert written.column("item_id").to_pylist() == [row["item_id"] for row in rows]
    assert written.column("vector_row").to_pylist() == list(range(40_000))


def test_users_rows_carry_their_snapshot(build: ModuleType, tmp_path: Path):
    workspace = Workspace(tmp_path)
    vectors = build.committed(workspace, "user_vectors", schemas.USER_VECTORS, build.user_vector_rows(4, 3))
    folder = workspace.dataset("user_features", "f" * 16, None).folder
    folder.mkdir(parents=True)
    facts = offline.vector_facts(vectors)
    offline.write_vector_files(vectors, facts, user_plans(folder, build.SPACE)[0], "snapshot_at", folder)
    rows = pq.read_table(folder / "rows.parquet")
    assert rows.column_names == ["vector_row", "user_id", "snapshot_at", "content_hash"]
    assert rows.column("snapshot_at").to_pylist() == vectors.table().column("snapshot_at").to_pylist()


def test_files_of_an_earlier_cut_do_not_stay(build: ModuleType, tmp_path: Path):
    folder, _ = write_items(build, build.item_vector_rows(5), tmp_path)
    (folder / "offline" / "part-00009.parquet").write_bytes((folder / "offline" / "part-00000.parquet").read_bytes())
    folder, _ = write_items(build, build.item_vector_rows(5), tmp_path)
    assert [path.name for path in (folder / "offline").iterdir()] == ["part-00000.parquet"]


def spoilt(build: ModuleType, position: int, **changed: object) -> list[dict]:
    rows = build.item_vector_rows(20)
    rows[position] |= changed
    return rows


NAN, INFINITE = float("nan"), float("-inf")


@pytest.mark.parametrize(
    ("position", "changed", "words"),
    [
        (7, {"vector": [1.0, NAN, 0.0, 0.0, 0.0, 0.0]}, "NaN or infinity: i007"),
        (7, {"vector": [1.0, INFINITE, 0.0, 0.0, 0.0, 0.0]}, "NaN or infinity: i007"),
        (7, {"vector": [1.0, None, 0.0, 0.0, 0.0, 0.0]}, "NaN or infinity: i007"),
        (13, {"vector": [0.0] * 6}, "all zero: i013"),
        (13, {"vector": [1.0] * 5}, "not of length 6: i013"),
        (0, {"vector": []}, "first vector is empty"),
        (13, {"item_id": "i001"}, "stand more than once.*i001"),
    ],
)
def test_unfit_tables_are_refused_by_name(position: int, changed: dict, words: str, build: ModuleType, tmp_path: Path):
    with pytest.raises(StageError, match=words) as raised:
        write_items(build, spoilt(build, position, **changed), tmp_path)
    assert "msd " in str(raised.value), "the sentence names a next command"


def test_an_empty_table_is_refused(build: ModuleType, tmp_path: Path):
    with pytest.raises(StageError, match="holds no rows"):
        write_items(build, [], tmp_path)


def test_two_spaces_in_one_table_are_a_mismatch(build: ModuleType, tmp_path: Path):
    with pytest.raises(SpaceMismatch, match=f"{build.SPACE}.*{build.OTHER_SPACE}"):
        write_items(build, spoilt(build, 13, space_id=build.OTHER_SPACE), tmp_path)


def test_a_spoilt_table_leaves_no_vectors_file(build: ModuleType, tmp_path: Path):
    with pytest.raises(StageError):
        write_items(build, spoilt(build, 19, vector=[0.0] * 6), tmp_path)
    assert not list(tmp_path.glob("item_features/*/vectors.npy"))


def test_history_rows_count_on_over_parts(build: ModuleType, tmp_path: Path):
    row = build.history_rows(1, 1)[0]
    rows = [row | {"user_id": f"u{number}"} for number in range(20_000)]
    histories = build.committed(Workspace(tmp_path), "histories", schemas.HISTORIES, rows)
    plan = user_plans(tmp_path / "user_features" / "x", build.SPACE)[1]
    offline.write_history_files(histories, plan)
    keys = offline.read_keys(plan)
    assert keys.column("history_row").to_pylist() == list(range(20_000))
    assert keys.column("user_id").to_pylist() == [row["user_id"] for row in rows]


def test_history_rows_count_the_table(build: ModuleType, tmp_path: Path):
    workspace = Workspace(tmp_path)
    rows = [
        {
            "user_id": user,
            "snapshot_at": build.at(hour),
            "num_events": hour,
            "item_ids": ["i1"] * hour,
            "event_times": [build.at(0)] * hour,
            "labels": [1] * hour,
            "is_embedded": False,
        }
        for hour in range(6)
        for user in ("b", "a")
    ]
    histories = build.committed(workspace, "histories", schemas.HISTORIES, rows)
    plan = user_plans(tmp_path / "user_features" / "x", build.SPACE)[1]
    assert plan.name == USER_HISTORIES
    assert offline.write_history_files(histories, plan) == 12
    keys = offline.read_keys(plan)
    table = histories.table()
    assert keys.column("history_row").to_pylist() == list(range(12))
    for name, wanted in [("user_id", "user_id"), ("num_events", "num_events"), ("event_timestamp", "snapshot_at")]:
        assert keys.column(name).to_pylist() == table.column(wanted).to_pylist()


START = datetime(2024, 3, 1, tzinfo=UTC)
keys_and_hours = st.lists(st.tuples(st.sampled_from("abcdé"), st.integers(0, 50)), max_size=40, unique=True)


@given(keys_and_hours)
def test_latest_rows_are_each_keys_maximum(pairs: list[tuple[str, int]]):
    table = pa.table(
        {
            "key": pa.array([key for key, _ in pairs], pa.string()),
            "event_timestamp": pa.array([START + timedelta(hours=hour) for _, hour in pairs], schemas.TIME),
        }
    )
    latest = offline.latest_rows(table, "key").to_pylist()
    wanted: dict[str, int] = {}
    for key, hour in pairs:
        wanted[key] = max(hour, wanted.get(key, 0))
    assert {row["key"]: row["event_timestamp"] for row in latest} == {
        key: START + timedelta(hours=hour) for key, hour in wanted.items()
    }
    assert len(latest) == len(wanted)
