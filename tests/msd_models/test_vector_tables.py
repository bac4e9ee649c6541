"""Tables of vectors: the same rows, the same shape, and nothing of the meaning left in placebos where none may be."""

from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from msd_models.vector_alignment import align_vectors, open_vectors
from msd_models.vector_tables import NOISE_ROWS, ArmTables, SemanticVectors, VectorSource, VectorTable, tables_of
from pipeline.errors import SpaceMismatch, StageError
from pipeline.storage import write_shard

ALL = [VectorSource.RAW_TEXT, VectorSource.TUNED]


def vectors_of(world, folder, sources=ALL):
    align_vectors(folder, world, sources)
    return open_vectors(folder)


def everything(table):
    return table.take(np.arange(table.num_rows))


@pytest.mark.parametrize(("source", "prefix"), [(VectorSource.RAW_TEXT, ""), (VectorSource.TUNED, "tuned_")])
def test_other_vectors_stand_in_the_rows_of_the_published_ones(make_ctr_world, tmp_path, source, prefix):
    world = make_ctr_world(tmp_path, queries=["a", "b"] * 300)
    tables = tables_of(source, vectors_of(world, tmp_path / "aligned"), 0)
    text = "" if prefix else "_text"
    for table, kind, key in ((tables.items, "item", "item_id"), (tables.users, "user", "user_id")):
        dataset = world[f"{prefix}{kind}{text}_vectors"]
        by_key = {row[key]: row["vector"] for row in dataset.table().to_pylist()}
        for row, vector in enumerate(everything(table)):
            np.testing.assert_array_equal(vector, np.float32(by_key[f"{kind} {row}"]))
        assert table.has_vector_N.all()
        assert table.space_id == ("tuned" if prefix else "text")
    contexts = world[f"{prefix}context{text}_vectors"].table().to_pylist()
    np.testing.assert_array_equal(everything(tables.contexts), np.float32([row["vector"] for row in contexts]))


def test_a_row_without_a_text_vector_is_said_to_have_none(make_ctr_world, tmp_path):
    world = make_ctr_world(tmp_path)
    shard = world["item_text_vectors"].shards()[0]
    write_shard(shard, world["item_text_vectors"].table().slice(3))
    items = tables_of(VectorSource.RAW_TEXT, vectors_of(world, tmp_path / "aligned"), 0).items
    assert items.has_vector_N.tolist() == [True] * 77 + [False] * 3
    assert np.isfinite(everything(items)).all()


def test_shuffling_deals_each_item_another_ones_vector_and_loses_none(make_ctr_world, tmp_path):
    vectors = vectors_of(make_ctr_world(tmp_path), tmp_path / "aligned", [VectorSource.STUDENT])
    own = everything(vectors.tables[VectorSource.STUDENT].items)
    dealt = everything(tables_of(VectorSource.SHUFFLED, vectors, 0).items)
    assert sorted(map(tuple, dealt.tolist())) == sorted(map(tuple, own.tolist()))
    assert not (dealt == own).all(axis=1).any()
    np.testing.assert_array_equal(dealt, everything(tables_of(VectorSource.SHUFFLED, vectors, 0).items))
    assert not np.array_equal(dealt, everything(tables_of(VectorSource.SHUFFLED, vectors, 1).items))


def test_a_users_snapshots_move_together_and_in_time_order():
    user_N, time_N = np.sort(np.arange(60) % 17), np.arange(60)[::-1].copy()
    said = np.stack([user_N, time_N], axis=1).astype(np.float32)
    table = VectorTable(vectors_ND=said, has_vector_N=np.ones(60, bool), space_id="s")
    empty = replace(table, vectors_ND=said[:0], has_vector_N=np.ones(0, bool))
    one = VectorTable(vectors_ND=said[:2], has_vector_N=np.ones(2, bool), space_id="s")
    student = ArmTables(items=one, users=table, contexts=empty)
    vectors = SemanticVectors(tables={VectorSource.STUDENT: student}, user_N=user_N, time_N=time_N)
    users = everything(tables_of(VectorSource.SHUFFLED, vectors, 0).users)
    dealt = defaultdict(list)
    for row in np.argsort(time_N):
        dealt[user_N[row]].append(users[row])
    givers = [{int(vector[0]) for vector in own} for own in dealt.values()]
    assert all(len(giver) == 1 for giver in givers)
    assert {next(iter(giver)) for giver in givers} == set(range(17))
    for name, own in dealt.items():
        assert int(own[0][0]) != name
        assert all(earlier[1] <= later[1] for earlier, later in pairwise(own))


def test_noise_has_the_students_shape_and_depends_on_the_seed(make_ctr_world, tmp_path):
    vectors = vectors_of(make_ctr_world(tmp_path), tmp_path / "aligned", [VectorSource.STUDENT])
    student = vectors.tables[VectorSource.STUDENT]
    noise = tables_of(VectorSource.RANDOM, vectors, 0)
    assert everything(noise.items).shape == everything(student.items).shape
    assert abs(everything(noise.users).std() - 1) < 0.1
    assert not np.array_equal(everything(noise.items), everything(tables_of(VectorSource.RANDOM, vectors, 1).items))


def test_noise_of_a_large_table_is_normal_and_no_two_rows_are_alike():
    count = 5 * NOISE_ROWS
    table = VectorTable(vectors_ND=np.zeros((count, 8), np.float32), has_vector_N=np.ones(count, bool), space_id="s")
    student = ArmTables(items=table, users=table, contexts=table)
    vectors = SemanticVectors(tables={VectorSource.STUDENT: student}, user_N=np.zeros(0), time_N=np.zeros(0))
    items = tables_of(VectorSource.RANDOM, vectors, 3).items
    noise = everything(items)
    assert len(items.vectors_ND) == NOISE_ROWS
    assert abs(noise.std() - 1) < 0.02
    assert len(np.unique(noise[:, 0])) > 0.99 * count
    np.testing.assert_array_equal(items.take(np.array([7, 3])), noise[[7, 3]])


def test_tables_are_mapped_and_not_read(make_ctr_world, tmp_path):
    vectors = vectors_of(make_ctr_world(tmp_path), tmp_path / "aligned")
    for tables in vectors.tables.values():
        assert isinstance(tables.items.vectors_ND, np.memmap)
        assert isinstance(tables.users.vectors_ND, np.memmap)


def test_items_and_users_of_two_spaces_are_refused(make_ctr_world, tmp_path):
    world = make_ctr_world(tmp_path, queries=["a", "b"] * 300)
    for name, sources in (("tuned_user_vectors", ALL), ("context_vectors", [VectorSource.STUDENT])):
        table = world[name].table()
        other = table.set_column(
            table.schema.get_field_index("space_id"), table.schema.field("space_id"), pa.array(["other"] * len(table))
        )
        shard = world[name].shards()[0]
        write_shard(shard, other)
        with pytest.raises(SpaceMismatch, match=f"of several spaces.*other.*msd run .*{name}"):
            align_vectors(tmp_path / f"aligned {name}", world, sources)
        write_shard(shard, table)


def test_two_spaces_in_one_table_are_refused(make_ctr_world, tmp_path):
    world = make_ctr_world(tmp_path)
    table = world["item_text_vectors"].table()
    half = pa.array(["text"] * 40 + ["other"] * 40)
    place = table.schema.get_field_index("space_id")
    write_shard(world["item_text_vectors"].shards()[0], table.set_column(place, table.schema.field(place), half))
    with pytest.raises(SpaceMismatch, match="item_text_vectors mixes vectors of spaces other, text"):
        vectors_of(world, tmp_path / "aligned")


def test_a_publication_that_is_not_whole_is_named(make_ctr_world, tmp_path):
    world = make_ctr_world(tmp_path)
    rows = world["item_features"].folder / "rows.parquet"
    table = pa.table({"vector_row": [0, 2], "item_id": ["item 0", "item 2"]})
    whole = rows.read_bytes()
    write_shard(rows, table)
    with pytest.raises(StageError, match=r"does not number the vectors 0 to 1.*msd run item_features"):
        vectors_of(world, tmp_path / "aligned")
    rows.write_bytes(whole)
    (world["item_features"].folder / "vectors.npy").unlink()
    with pytest.raises(StageError, match=r"vectors\.npy is not in its folder; run: msd run item_features"):
        vectors_of(world, tmp_path / "aligned")
