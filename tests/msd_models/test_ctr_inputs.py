"""The tensors of the CTR models hold what the datasets say, row by row."""

import numpy as np
import pytest
import torch

from msd_models.ctr_inputs import Tables, read_inputs
from msd_models.vector_tables import read_vectors
from pipeline.errors import StageError

VECTORS = ("item_features", "user_features", "item_text_vectors", "user_text_vectors")


def inputs_of(world, max_history=5, min_id_count=2):
    vectors = read_vectors(**{name: world[name] for name in VECTORS})
    tables = Tables(**{name: dataset for name, dataset in world.items() if name not in VECTORS})
    return read_inputs(tables, vectors.item_rows, max_history, min_id_count)


def test_histories_are_the_last_events_of_the_row_the_example_names(make_ctr_world, tmp_path):
    random = np.random.default_rng(1)
    named = [None if random.random() < 0.2 else int(random.integers(60)) for _ in range(600)]
    world = make_ctr_world(tmp_path, history_row=named)
    batch = inputs_of(world).batch(torch.arange(600))
    histories = world["histories"].table().to_pylist()
    items = world["items"].table().column("item_id").to_pylist()
    for row, name in enumerate(named):
        given = [] if name is None else histories[name]["item_ids"][-5:]
        read = [items[entry - 1] for entry in batch.history_BL[row].tolist() if entry]
        assert read == given
        assert batch.is_liked_BL[row].sum() == len(given)
        assert batch.history_rows_BL[row].tolist() == batch.history_BL[row].tolist()


def test_missing_vectors_and_rows_are_zero_and_the_rest_is_shifted_by_one(make_ctr_world, tmp_path):
    rows = [None if number % 7 == 0 else number % 60 for number in range(600)]
    inputs = inputs_of(make_ctr_world(tmp_path, user_row=rows))
    assert inputs.user_row_N.tolist() == [0 if row is None else row + 1 for row in rows]


def test_no_code_belongs_to_two_fields_and_all_lie_in_the_table(make_ctr_world, tmp_path):
    inputs = inputs_of(make_ctr_world(tmp_path))
    for position, field in enumerate(inputs.fields):
        codes = inputs.codes_NF[:, position]
        assert field.offset <= codes.min()
        assert codes.max() < field.offset + field.size
    names = [field.name for field in inputs.fields]
    assert names == ["user_id", "item_id", "category", "item.brand", "item.price", "user.age", "context.device"]
    assert inputs.num_codes == inputs.fields[-1].offset + inputs.fields[-1].size


def test_training_alone_decides_the_codes(make_ctr_world, tmp_path):
    random = np.random.default_rng(0)
    users = random.integers(60, size=600)
    other = users.copy()
    other[400:] = random.integers(60, size=200)
    one = inputs_of(make_ctr_world(tmp_path / "one", user=users))
    two = inputs_of(make_ctr_world(tmp_path / "two", user=other))
    assert one.num_codes == two.num_codes
    assert torch.equal(one.codes_NF[:360], two.codes_NF[:360])


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_a_split_with_one_class_or_without_rows_is_named(make_ctr_world, tmp_path, split):
    splits = np.array(["train", "valid", "test"])[np.arange(600) % 3]
    clicks = (np.arange(600) % 2 == 0) | (splits == split)
    with pytest.raises(StageError, match=rf"the {split} split has 200 clicks among its 200 rows.*msd run"):
        inputs_of(make_ctr_world(tmp_path / "one_class", split=splits, click=clicks))
    splits[splits == split] = "test" if split != "test" else "train"
    with pytest.raises(StageError, match=f"the {split} split has 0 clicks among its 0 rows"):
        inputs_of(make_ctr_world(tmp_path / "empty", split=splits))
