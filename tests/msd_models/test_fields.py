"""Fields: training alone decides what is known, and a value's row never depends on the other splits."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd_models.fields import NUM_BUCKETS, FieldRules, Numbers, attribute_columns, make_field
from pipeline import schemas

WORDS = st.sampled_from(["a", "b", "c", "1", "2", "ü", ""])


RULES = FieldRules(min_count=1, hashed_rows=0, numbers=Numbers.BUCKETS)


def counts_of(distinct, train):
    return np.array([train.count(value) for value in distinct.to_pylist()])


@given(st.lists(WORDS, min_size=1, max_size=40), st.integers(1, 3), st.data())
@settings(max_examples=60, deadline=None)
def test_rows_are_given_to_values_met_often_enough_in_training(values, min_count, data):
    train = data.draw(st.lists(st.sampled_from(values), max_size=30))
    distinct = pa.array(sorted(set(values)))
    rules = replace(RULES, min_count=min_count)
    field, number = make_field("item_id", distinct, counts_of(distinct, train), 7, rules, is_id=True)
    assert number is None
    codes = field.rows_of(pa.array(values))
    for value, code in zip(values, codes, strict=True):
        assert (code > 7) == (train.count(value) >= min_count)
        assert code == 7 or field.values[code - 8].as_py() == value
    assert field.size == 1 + len({code for code in codes if code > 7})
    assert field.rows_of(pa.array(["never met", None], pa.string())).tolist() == [7, 7]


def test_a_numeric_attribute_becomes_buckets_in_order_and_a_seldom_number_is_still_known():
    numbers = pa.array([str(number / 7) for number in range(200)] + ["n/a"])
    counts = np.append(np.arange(200) % 2 == 0, 0).astype(int)
    field, number = make_field("item.price", numbers, counts, 0, replace(RULES, min_count=2))
    assert number is None
    codes = field.rows_of(numbers)
    assert field.size <= 1 + NUM_BUCKETS
    assert (np.diff(codes[:200]) >= 0).all()
    assert codes[0] == 1
    assert codes[199] == field.size - 1
    assert codes[200] == 0
    _, filled = np.unique(codes[:200:2], return_counts=True)
    assert filled.max() - filled.min() <= 1


@given(
    # Whole thousandths: numbers that differ in the hundredth decimal have no deviation a float could hold.
    st.lists(st.integers(-(10**9), 10**9).map(lambda n: n / 1000), min_size=NUM_BUCKETS + 1, max_size=60, unique=True),
    st.data(),
)
@settings(max_examples=40, deadline=None)
def test_normalised_numbers_have_mean_0_and_deviation_1_over_training(values, data):
    distinct = pa.array([repr(value) for value in values])
    counts = np.array(data.draw(st.lists(st.integers(0, 5), min_size=len(values), max_size=len(values))))
    counts[:2] += 1
    field, number = make_field("item.price", distinct, counts, 0, replace(RULES, numbers=Numbers.NORMALISED))
    assert field is None
    seen = np.repeat(number.normalised(distinct).astype(float), counts)
    np.testing.assert_allclose(seen.mean(), 0, atol=1e-4)
    np.testing.assert_allclose(seen.std(), 1, rtol=1e-3)
    assert number.normalised(pa.array(["n/a", None, "inf"], pa.string())).tolist() == [0, 0, 0]


def test_ids_that_look_like_numbers_stay_names():
    distinct = pa.array([str(number) for number in range(100)])
    field, _ = make_field("user_id", distinct, np.ones(100, int), 0, RULES, is_id=True)
    assert field.size == 101


def test_an_attribute_training_never_meets_is_left_out_and_an_id_is_not():
    distinct, nothing = pa.array(["x", "y"]), np.zeros(2, int)
    assert make_field("item.brand", distinct, nothing, 0, RULES) == (None, None)
    field, _ = make_field("item_id", distinct, nothing, 3, RULES, is_id=True)
    assert field.size == 1
    assert field.rows_of(distinct).tolist() == [3, 3]


def test_hashed_rows_depend_on_the_value_alone_and_unknown_stays_unknown():
    distinct = pa.array([f"query {number}" for number in range(500)])
    field, _ = make_field("context.query", distinct, np.ones(500, int), 11, replace(RULES, hashed_rows=64))
    assert field.size == 65
    codes = field.rows_of(distinct)
    assert codes.min() > 11
    assert codes.max() < 11 + field.size
    assert len(set(codes.tolist())) > 55
    assert field.rows_of(distinct[::-1]).tolist() == codes[::-1].tolist()
    assert field.rows_of(pa.array([None], pa.string())).tolist() == [11]


@pytest.mark.parametrize("cut", [0, 2])
def test_attributes_of_maps_are_told_apart_whatever_the_slice(cut):
    rows = [{"a": "1"}, {"b": "2", "a": "3"}, {}, {"b": "1"}, {"c": "", "a": "1"}]
    maps = pa.chunked_array([pa.array([list(row.items()) for row in rows], schemas.ATTRIBUTES)]).slice(cut)
    columns = {column.name: column for column in attribute_columns("item", maps)}
    for name in ("a", "b", "c"):
        column = columns[f"item.{name}"]
        found = [None if index < 0 else column.distinct[index].as_py() for index in column.index_E.tolist()]
        assert found == [row.get(name) for row in rows[cut:]]
