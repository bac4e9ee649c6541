"""Fields: training alone decides what is known, and a value's row never depends on the other splits."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd_models.fields import NUM_BUCKETS, attribute_columns, enumerate_field, string_column
from pipeline import schemas

WORDS = st.sampled_from(["a", "b", "c", "1", "2", "ü", ""])


@given(st.lists(WORDS, min_size=1, max_size=40), st.integers(1, 3), st.data())
@settings(max_examples=60, deadline=None)
def test_rows_are_given_to_values_met_often_enough_in_training(values, min_count, data):
    train = data.draw(st.lists(st.integers(0, len(values) - 1), max_size=30))
    column = string_column("item_id", pa.chunked_array([values]), is_id=True)
    field, codes = enumerate_field(column, np.array(train, dtype=np.int64), 7, min_count)
    for value, code in zip(values, codes, strict=True):
        met = sum(values[entity] == value for entity in train)
        assert (code > 7) == (met >= min_count)
        assert code == 7 or field.values[code - 8].as_py() == value
    assert field.size == 1 + len({code for code in codes if code > 7})


def test_a_numeric_attribute_becomes_buckets_in_order_and_a_seldom_number_is_still_known():
    numbers = [str(number / 7) for number in range(200)]
    column = string_column("item.price", pa.chunked_array([[*numbers, "n/a", None]]))
    field, codes = enumerate_field(column, np.arange(0, 200, 2), 0, 2)
    assert field.size <= 1 + NUM_BUCKETS
    assert (np.diff(codes[:200]) >= 0).all()
    assert codes[0] == 1
    assert codes[199] == field.size - 1
    assert (codes[200:] == 0).all()
    _, counts = np.unique(codes[:200:2], return_counts=True)
    assert counts.max() - counts.min() <= 1


def test_ids_that_look_like_numbers_stay_names():
    column = string_column("user_id", pa.chunked_array([[str(number) for number in range(100)]]), is_id=True)
    field, _ = enumerate_field(column, np.arange(100), 0, 1)
    assert field.size == 101


def test_an_attribute_training_never_meets_is_left_out_and_an_id_is_not():
    values = pa.chunked_array([["x", "y"]])
    nothing = np.array([-1, -1])
    assert enumerate_field(string_column("item.brand", values), nothing, 0, 1) is None
    field, codes = enumerate_field(string_column("item_id", values, is_id=True), nothing, 3, 1)
    assert field.size == 1
    assert codes.tolist() == [3, 3]


@pytest.mark.parametrize("cut", [0, 2])
def test_attributes_of_maps_are_told_apart_whatever_the_slice(cut):
    rows = [{"a": "1"}, {"b": "2", "a": "3"}, {}, {"b": "1"}, {"c": "", "a": "1"}]
    maps = pa.chunked_array([pa.array([list(row.items()) for row in rows], schemas.ATTRIBUTES)]).slice(cut)
    columns = {column.name: column for column in attribute_columns("item", maps)}
    for name in ("a", "b", "c"):
        column = columns[f"item.{name}"]
        found = [None if index < 0 else column.distinct[index].as_py() for index in column.index_E.tolist()]
        assert found == [row.get(name) for row in rows[cut:]]
