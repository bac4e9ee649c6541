"""Batches by token budget."""

from hypothesis import given
from hypothesis import strategies as st

from msd_models.token_batches import pad, token_batches

LENGTHS = st.lists(st.integers(0, 300), max_size=60)


@given(LENGTHS, st.integers(1, 1000))
def test_batches_partition_the_rows_within_the_budget(lengths, budget):
    batches = list(token_batches(lengths, budget))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= budget


@given(st.lists(st.lists(st.integers(1, 9), max_size=7), min_size=1, max_size=5))
def test_padding_keeps_every_token(rows):
    ids, mask = pad(rows, fill=0)
    assert mask.sum(dim=1).tolist() == [len(row) for row in rows]
    assert [ids[number, : len(row)].tolist() for number, row in enumerate(rows)] == rows
