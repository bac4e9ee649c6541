"""Placebo tables: the same rows, the same shape, and nothing of the meaning left where none may be."""

from collections import defaultdict
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from msd_models.vector_tables import VectorSource, read_vectors, tables_of
from pipeline.errors import SpaceMismatch
from pipeline.storage import write_shard

VECTORS = ("item_features", "user_features", "item_text_vectors", "user_text_vectors")


def vectors_of(world):
    return read_vectors(**{name: world[name] for name in VECTORS})


def test_text_vectors_stand_in_the_rows_of_the_published_ones(make_ctr_world, tmp_path):
    world = make_ctr_world(tmp_path)
    vectors = vectors_of(world)
    items, users = tables_of(VectorSource.RAW_TEXT, vectors, 0)
    for table, dataset, key in ((items, "item_text_vectors", "item_id"), (users, "user_text_vectors", "user_id")):
        by_key = {row[key]: row["vector"] for row in world[dataset].table().to_pylist()}
        rows = vectors.item_rows if key == "item_id" else vectors.user_rows
        for row, name in enumerate(rows.column(key).to_pylist()):
            np.testing.assert_array_equal(table.vectors_ND[row], np.float32(by_key[name]))
        assert table.has_vector_N.all()


def test_a_row_without_a_text_vector_is_said_to_have_none(make_ctr_world, tmp_path):
    world = make_ctr_world(tmp_path)
    shard = world["item_text_vectors"].shards()[0]
    write_shard(shard, world["item_text_vectors"].table().slice(3))
    items, _ = tables_of(VectorSource.RAW_TEXT, vectors_of(world), 0)
    assert items.has_vector_N.tolist() == [True] * 77 + [False] * 3
    assert np.isfinite(items.vectors_ND).all()


def test_shuffling_deals_each_item_another_ones_vector_and_loses_none(make_ctr_world, tmp_path):
    vectors = vectors_of(make_ctr_world(tmp_path))
    items, _ = tables_of(VectorSource.SHUFFLED, vectors, 0)
    own = np.asarray(vectors.items.vectors_ND)
    assert sorted(map(tuple, items.vectors_ND.tolist())) == sorted(map(tuple, own.tolist()))
    assert not (items.vectors_ND == own).all(axis=1).any()
    again, _ = tables_of(VectorSource.SHUFFLED, vectors, 0)
    other, _ = tables_of(VectorSource.SHUFFLED, vectors, 1)
    np.testing.assert_array_equal(items.vectors_ND, again.vectors_ND)
    assert not np.array_equal(items.vectors_ND, other.vectors_ND)


def test_a_users_snapshots_move_together_and_in_time_order(make_ctr_world, tmp_path):
    world = make_ctr_world(tmp_path)
    user = np.sort(np.arange(60) % 17)
    time = np.arange(60)[::-1]
    rows = {"vector_row": np.arange(60), "user_id": user.astype(str), "snapshot_at": pa.array(time, pa.timestamp("us"))}
    write_shard(world["user_features"].folder / "rows.parquet", pa.table(rows))
    np.save(world["user_features"].folder / "vectors.npy", np.stack([user, time], axis=1).astype(np.float32))
    _, users = tables_of(VectorSource.SHUFFLED, vectors_of(world), 0)
    dealt = defaultdict(list)
    for row in np.argsort(time):
        dealt[user[row]].append(users.vectors_ND[row])
    givers = [{int(vector[0]) for vector in own} for own in dealt.values()]
    assert all(len(giver) == 1 for giver in givers)
    assert {next(iter(giver)) for giver in givers} == set(range(17))
    for name, own in dealt.items():
        assert int(own[0][0]) != name
        assert all(earlier[1] <= later[1] for earlier, later in pairwise(own))


def test_noise_has_the_students_shape_and_depends_on_the_seed(make_ctr_world, tmp_path):
    vectors = vectors_of(make_ctr_world(tmp_path))
    items, users = tables_of(VectorSource.RANDOM, vectors, 0)
    assert items.vectors_ND.shape == vectors.items.vectors_ND.shape
    assert abs(users.vectors_ND.std() - 1) < 0.1
    assert not np.array_equal(items.vectors_ND, tables_of(VectorSource.RANDOM, vectors, 1)[0].vectors_ND)


def test_two_spaces_are_refused_by_name(make_ctr_world, tmp_path):
    world = make_ctr_world(tmp_path)
    table = world["item_text_vectors"].table()
    mixed = table.set_column(
        table.schema.get_field_index("space_id"), table.schema.field("space_id"), pa.array(["one"] * 79 + ["two"])
    )
    write_shard(world["item_text_vectors"].shards()[0], mixed)
    with pytest.raises(SpaceMismatch, match=r"item_text_vectors mixes .*one, two.*msd run item_text_vectors"):
        tables_of(VectorSource.RAW_TEXT, vectors_of(world), 0)
    manifest = world["user_features"].folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"student"', '"another"'))
    with pytest.raises(SpaceMismatch, match="space student and users in another"):
        vectors_of(world)
