"""Three groups of rows that share neither entity nor text, whatever the order; a larger share holds the smaller one."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from msd_models.distillation_rows import drawn_rows, split_rows
from pipeline.config import Student

SETTINGS = Student(holdout_share=0.25, choosing_share=0.25)
ROWS = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 25), st.integers(0, 25), st.booleans()), max_size=40, unique=True
)


def as_rows(drawn):
    return [
        {
            "prompt_id": f"item:{place}",
            "entity_id": f"e{entity}",
            "text": f"Text  {text}" if place % 2 else f"text {text}",
            "representative_id": f"r{read}",
            "status": "ok" if ok else "rejected",
        }
        for place, (entity, text, read, ok) in enumerate(drawn)
    ]


def ids(rows):
    return [row["prompt_id"] for row in rows]


@given(ROWS, st.randoms(use_true_random=False))
def test_groups_are_disjoint_in_entity_text_and_what_was_read(drawn, random):
    rows = as_rows(drawn)
    split = split_rows(rows, SETTINGS)
    groups = [split.train, split.choosing, split.holdout]
    assert sorted(ids([*split.train, *split.choosing, *split.holdout, *split.skipped])) == sorted(ids(rows))
    assert all(row["status"] == "ok" for group in groups for row in group)
    for mark in (
        lambda row: row["entity_id"],
        lambda row: " ".join(row["text"].split()).casefold(),
        lambda row: row["representative_id"],
    ):
        marks = [{mark(row) for row in group} for group in groups]
        assert sum(map(len, marks)) == len(set().union(*marks))
    shuffled = random.sample(rows, len(rows))
    again = split_rows(shuffled, SETTINGS)
    assert [sorted(ids(group)) for group in groups] == [
        sorted(ids(group)) for group in (again.train, again.choosing, again.holdout)
    ]


@given(ROWS, st.floats(0.01, 1), st.floats(0.01, 1))
def test_a_larger_share_holds_the_smaller_ones_rows(drawn, one, other):
    small, large = (split_rows(as_rows(drawn), replace(SETTINGS, train_share=share)) for share in sorted((one, other)))
    assert set(ids(small.train)) <= set(ids(large.train))
    assert ids(small.holdout) == ids(large.holdout)
    assert ids(small.choosing) == ids(large.choosing)
    assert bool(small.train) == bool(large.train)


def test_few_entities_still_fill_every_group():
    rows = as_rows([(number, number, number, True) for number in range(3)])
    split = split_rows(rows, Student(holdout_share=1e-6, choosing_share=1e-6))
    assert [len(group) for group in (split.train, split.choosing, split.holdout)] == [1, 1, 1]
    assert not split_rows(rows, Student(holdout_share=0, choosing_share=0)).holdout


def test_measured_rows_are_drawn_whatever_their_order():
    rows = as_rows([(number, number, number, True) for number in range(30)])
    assert ids(drawn_rows(rows, 0, 5)) == ids(drawn_rows(rows[::-1], 0, 5))
    assert ids(drawn_rows(rows, 0, 5)) != ids(drawn_rows(rows, 1, 5))
    assert len(drawn_rows(rows, 0, 100)) == 30
