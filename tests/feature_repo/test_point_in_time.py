"""The join of row numbers against a plain search and against Feast's own, and what ends it."""

import errno
import tempfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from as_of_world import AsOfWorld, Label, Row, answers, label_table, wanted_of, worlds, write_view
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.definitions import entities, feature_view
from feature_repo.point_in_time import Limits, RowNumbers, join_as_of
from feature_repo.store import open_store, quiet_feast, write_settings
from pipeline.errors import ConfigError, StageError

LIMITS = Limits(memory_gib=0.5, threads=2, pass_rows=1_000_000)


def joined(labels, wanted, sizes=(), limits=LIMITS):
    """The labels cut into batches of these sizes and joined, each batch checked against what was given."""
    table = label_table(labels).combine_chunks()
    batches, start = [], 0
    for size in [*sizes, len(labels)]:
        part = table.slice(start, size).combine_chunks()
        batches.append(part.to_batches()[0] if part.num_rows else pa.RecordBatch.from_pylist([], schema=table.schema))
        start += size
    made = list(join_as_of(iter(batches), wanted, limits))
    assert [batch.select(table.schema.names) for batch in made] == batches, "every label stays, in its place"
    columns = [pa.chunked_array([batch.column(each.name) for batch in made]).to_pylist() for each in wanted]
    return list(zip(*columns, strict=True))


@settings(max_examples=120, deadline=None)
@given(world=worlds(), sizes=st.lists(st.integers(0, 9), max_size=4), pass_rows=st.integers(1, 30))
def test_each_label_knows_what_a_plain_search_finds(world, sizes, pass_rows):
    with tempfile.TemporaryDirectory() as folder:
        wanted = wanted_of(world, Path(folder))
        assert joined(world.labels, wanted, sizes, replace(LIMITS, pass_rows=pass_rows)) == answers(world, wanted)


def test_a_row_lives_for_its_ttl_and_not_a_microsecond_longer(tmp_path):
    plan = write_view(tmp_path / "view", "user_vectors", [Row("u", -7, 0), Row("u", 10_000, 0)])
    ttl = timedelta(microseconds=50)
    wanted = [RowNumbers(name="number", plan=plan, column="number", ttl=ttl)]
    times = [-8, -7, -6, 43, 44, 9_999, 10_000, 10_050, 10_051]
    found = joined([Label("u", None, at) for at in times], wanted)
    assert [row[0] for row in found] == [None, 0, 0, 0, None, None, 1, 1, None]


def test_a_folder_of_any_name_is_read_as_it_is(tmp_path):
    odd = tmp_path / "user_id=7" / "it's [a] *folder?" / "ünï"
    plan = write_view(odd, "user_vectors", [Row("u", 1, 0), Row("7", 1, 0)])
    wanted = [RowNumbers(name="number", plan=plan, column="number")]
    assert joined([Label("u", None, 5), Label("7", None, 5), Label("v", None, 5)], wanted) == [(0,), (1,), (None,)]


def test_one_busy_key_of_many_rows_is_joined_in_little_memory(tmp_path):
    """As pairs, 4·10¹⁰ of them; DuckDB has to put some of it on disk."""
    count = 200_000
    plan = write_view(tmp_path / "view", "user_vectors", [Row("bot", 2 * n, 0) for n in range(count)])
    wanted = [RowNumbers(name="number", plan=plan, column="number")]
    labels = [Label("bot", None, at) for at in range(-1, 2 * count - 1, 2)]
    found = joined(labels, wanted, (50_000, 1), replace(LIMITS, memory_gib=0.06, pass_rows=70_000))
    assert found == [(None,), *((n,) for n in range(count - 1))]


def test_no_label_and_no_row(tmp_path):
    plan = write_view(tmp_path / "view", "user_vectors", [])
    wanted = [RowNumbers(name="number", plan=plan, column="number")]
    assert joined([], wanted) == []
    assert joined([Label("u", None, 0)] * 3, wanted, (2,)) == [(None,)] * 3
    assert list(join_as_of(iter([]), wanted, LIMITS)) == []


def test_nothing_is_left_behind_by_a_reader_that_stops(tmp_path):
    (tmp_path / "scratch").mkdir()
    plan = write_view(tmp_path / "view", "user_vectors", [Row("u", 1, 0)])
    wanted = [RowNumbers(name="number", plan=plan, column="number")]
    batch = label_table([Label("u", None, 5)] * 4).to_batches()[0]
    reader = join_as_of(iter([batch, batch]), wanted, replace(LIMITS, scratch=tmp_path / "scratch"))
    assert next(reader).column("number").to_pylist() == [0] * 4
    assert list((tmp_path / "scratch").iterdir())
    reader.close()
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize("wrong", [{"memory_gib": 0.0}, {"memory_gib": -1.0}, {"threads": -1}, {"pass_rows": 0}])
def test_limits_out_of_range_are_named(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        next(join_as_of(iter([]), [], replace(LIMITS, **wrong)))


def test_a_torn_or_absent_file_is_a_sentence_with_the_next_command(tmp_path):
    plan = write_view(tmp_path / "view", "user_vectors", [Row("u", 1, 0), Row("u", 2, 0)])
    wanted = [RowNumbers(name="number", plan=plan, column="number")]
    torn = tmp_path / "view" / "part-00001.parquet"
    torn.write_bytes(torn.read_bytes()[:-20])
    with pytest.raises(StageError, match="msd run item_features user_features"):
        joined([Label("u", None, 5)], wanted)
    for path in (tmp_path / "view").iterdir():
        path.unlink()
    with pytest.raises(StageError, match="msd run item_features user_features"):
        joined([Label("u", None, 5)], wanted)


def test_memory_and_disk_that_do_not_do_are_sentences(tmp_path):
    plan = write_view(tmp_path / "view", "user_vectors", [Row(f"u{n}", n, 0) for n in range(50_000)])
    wanted = [RowNumbers(name="number", plan=plan, column="number")]
    labels = [Label(f"u{n}", None, n) for n in range(50_000)]
    with pytest.raises(StageError, match=r"examples\.memory_gib"):
        joined(labels, wanted, limits=replace(LIMITS, memory_gib=0.003))
    with pytest.raises(StageError, match=r"No space left.*examples\.pass_rows"):
        list(join_as_of(disk_is_full_after(label_table(labels).to_batches()), wanted, LIMITS))


def disk_is_full_after(batches):
    yield from batches
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.feast
@pytest.mark.slow
@settings(max_examples=2, deadline=None, derandomize=True)
@given(drawn=worlds(min_rows=25, max_rows=60))
def test_feast_joins_the_same_rows(drawn):
    """Feast's own historical features, of views with and without a time to live; it leaves full ties to chance."""
    world = without_full_ties(drawn)
    with tempfile.TemporaryDirectory() as folder:
        wanted = wanted_of(world, Path(folder) / "views")
        assert joined(world.labels, wanted, (7,)) == feast_answers(world, wanted, Path(folder) / "repo")


def without_full_ties(world: AsOfWorld) -> AsOfWorld:
    views = {
        name: [replace(row, created=100 * row.created + number) for number, row in enumerate(rows)]
        for name, rows in world.views.items()
    }
    return replace(world, views=views)


def feast_answers(world: AsOfWorld, wanted: list[RowNumbers], home: Path) -> list[tuple[int | None, ...]]:
    write_settings(home, None)
    with quiet_feast():
        store = open_store(home)
        views = [feast_view(each) for each in wanted]
        store.apply([*entities(), *views])
        events = label_table(world.labels).rename_columns(["position", "user_id", "item_id", "event_timestamp"])
        job = store.get_historical_features(
            entity_df=events.to_pandas(), features=[f"{view.name}:number" for view in views], full_feature_names=True
        )
        found = job.to_arrow().sort_by("position")
    columns = [found.column(f"{view.name}__number").cast(pa.int64()).to_pylist() for view in views]
    return list(zip(*columns, strict=True))


def feast_view(wanted: RowNumbers):
    view = feature_view(replace(wanted.plan, name=wanted.name), online=False)
    view.ttl = wanted.ttl
    return view
