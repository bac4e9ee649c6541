"""The rows chosen for going online are those a plain search chooses, whatever the tables hold."""

import random
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo.definitions import ITEM_STATS, USER_HISTORIES, ViewPlan, item_plans, user_plans
from feature_repo.online_memory import limits
from feature_repo.online_rows import (
    Wanted,
    choose_rows,
    chosen_before,
    chosen_digest,
    count_wanted,
    duckdb_session,
    files_of,
    sample_rows,
    shard_files,
    view_rows,
)
from pipeline import schemas

ODD_IDS = ["i000", "", "ключ", "a'b", 'q"', "x" * 3000, "i 1", "🙂", "i\t2", "0", "é", "é"]


def write_view(plan: ViewPlan, rows: list[dict[str, Any]]) -> None:
    plan.files.mkdir(parents=True)
    for number, part in enumerate((rows[::2], rows[1::2])):
        table = pa.Table.from_pylist(part, schema=plan.file_schema)
        pq.write_table(table, plan.files / f"part-{number:05d}.parquet")


def made_up(build: ModuleType, root: Path, seed: int) -> tuple[list[ViewPlan], dict[str, list[dict[str, Any]]]]:
    """All five views with keys that are in some of them only, several rows a key, odd ids."""
    draw = random.Random(seed)
    plans = [
        *item_plans(root / "it[e]ms", build.SPACE, "e" * 16),
        *user_plans(root / "user's", build.SPACE, "e" * 16),
    ]
    tables = {}
    for plan in plans:
        kind, number, rows = plan.tags["kind"], 0, []
        times = [0] if "stats" in kind else range(draw.randrange(1, 6))
        for key in ODD_IDS + [f"i{k:03d}" for k in range(40)]:
            for hours in sorted(draw.sample(range(200), len(times))) if draw.random() < 0.8 else ():
                row = {"vector": [1.0, 2.0], "vector_row": number, "content_hash": f"{number:016x}"}
                row |= {"history_row": number, "num_events": number, "exposures": draw.randrange(9), "clicks": 1}
                row |= {"ctr_shrunk": 0.5, plan.key.name: key, "event_timestamp": build.at(hours)}
                rows.append({name: row[name] for name in plan.file_schema.names if name in row})
                number += 1
        for row in rows:
            row["created"] = row["event_timestamp"]
        write_view(plan, rows)
        tables[kind] = rows
    return plans, tables


def latest(rows: list[dict[str, Any]], key: str) -> dict[str, dict[str, Any]]:
    """The plain reference: of each key the row with the greatest time; the blank key is nobody's."""
    best: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row[key] and (row[key] not in best or row["event_timestamp"] > best[row[key]]["event_timestamp"]):
            best[row[key]] = row
    return best


def online(folder: Path, plans: list[ViewPlan]) -> dict[str, dict[str, dict[str, Any]]]:
    """Of each view the rows that went into the shards, by key."""
    found: dict[str, dict[str, dict[str, Any]]] = {plan.tags["kind"]: {} for plan in plans}
    for path in shard_files(folder):
        shard = pq.read_table(path)
        for plan in plans:
            if plan.key.name in shard.column_names:
                for row in view_rows(shard, plan).to_pylist():
                    if row["event_timestamp"] is not None:
                        assert row[plan.key.name] not in found[plan.tags["kind"]], "each key once"
                        found[plan.tags["kind"]][row[plan.key.name]] = row
    return found


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_latest_row_of_every_key_goes_online(seed: int, build: ModuleType, tmp_path: Path):
    plans, tables = made_up(build, tmp_path, seed)
    folder = tmp_path / "publication"
    wanted = Wanted(shard_rows=7, active_days=0.0, max_keys={})
    chosen = choose_rows(plans, wanted, folder)
    found = online(folder, plans)
    for plan in plans:
        kind, key = plan.tags["kind"], plan.key.name
        expected = latest(tables[kind], key)
        assert set(found[kind]) == set(expected)
        for name, row in found[kind].items():
            assert row == {column: expected[name][column] for column in row}
        assert chosen.rows[kind] == len(expected)
    assert chosen.keys == count_wanted(plans, wanted, folder)
    assert chosen_before(folder) == chosen
    sizes = [pq.ParquetFile(path).metadata.num_rows for path in shard_files(folder, "item")]
    assert set(sizes[:-1]) <= {7}
    assert sum(sizes) == chosen.keys["item"]
    digest = chosen_digest(folder)
    choose_rows(plans, wanted, folder)
    assert chosen_digest(folder) == digest, "the same rows in the same shards every time"


@pytest.mark.parametrize("seed", [3, 4])
def test_limits_keep_the_active_and_the_most_exposed(seed: int, build: ModuleType, tmp_path: Path):
    plans, tables = made_up(build, tmp_path, seed)
    folder = tmp_path / "publication"
    last = {user: row["event_timestamp"] for user, row in latest(tables[USER_HISTORIES], "user_id").items()}
    newest = max(last.values())
    days = 2.0
    choose_rows(plans, Wanted(shard_rows=100, active_days=days, max_keys={"item": 5}), folder)
    found = online(folder, plans)
    active = {user for user, time in last.items() if (newest - time).total_seconds() <= days * 86_400}
    assert 0 < len(active) < len(last)
    assert {user for kind in found if "user" in kind for user in found[kind]} == active
    exposures = {item: row["exposures"] for item, row in latest(tables[ITEM_STATS], "item_id").items()}
    kept = {item for kind in found if "item" in kind for item in found[kind]}
    assert len(kept) == 5
    assert min(exposures[item] for item in kept) >= sorted(exposures.values())[-5]


def test_users_are_served_before_items_and_no_key_beyond_the_budget():
    counted, each = {"item": 1000, "user": 100}, {"item": 1024.0, "user": 2048.0}
    assert limits(0.0, counted, each) == {}
    assert limits(100.0, counted, each) == {"user": 100, "item": 1000}
    assert limits(0.5, counted, each) == {"user": 100, "item": 312}
    assert limits(0.1, counted, each) == {"user": 51, "item": 0}


def test_a_killed_choice_is_no_choice(build: ModuleType, tmp_path: Path):
    plans, _ = made_up(build, tmp_path, 5)
    folder = tmp_path / "publication"
    (folder / "online").mkdir(parents=True)
    (folder / "online" / "items-00000.parquet").write_bytes(b"torn")
    assert chosen_before(folder) is None
    chosen = choose_rows(plans, Wanted(shard_rows=9, active_days=0.0, max_keys={}), folder)
    assert chosen_before(folder) == chosen
    assert pq.read_table(shard_files(folder)[0]).num_rows == 9


def test_the_sample_is_the_same_keys_every_time(build: ModuleType, tmp_path: Path):
    plans, _ = made_up(build, tmp_path, 6)
    with duckdb_session(tmp_path) as session:
        first, second = (sample_rows(session, plans[:2], 10) for _ in range(2))
    assert first.equals(second)
    assert first.num_rows == 10
    assert not (tmp_path / ".duckdb").exists()
    assert files_of(Path("a[b]/c.parquet")) == "a[[]b]/c.parquet"
    assert first.schema.field("item_stats.event_timestamp").type == schemas.TIME
