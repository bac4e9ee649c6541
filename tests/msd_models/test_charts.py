"""Charts: every mark lies inside its picture and in the order of its numbers."""

import itertools

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from msd_models import charts

VALUES = st.floats(-0.5, 0.5, allow_subnormal=False)
DELTAS = st.tuples(VALUES, VALUES, VALUES).map(sorted)


@given(VALUES, st.floats(1e-4, 2))
def test_ticks_are_round_few_and_inside_the_axis(low, width):
    scale = charts.Scale(low=low, high=low + width, start=0, end=100)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 7
    assert all(-0.2 <= scale(tick) <= 100.2 for tick in ticks)
    steps = [after - before for before, after in itertools.pairwise(ticks)]
    assert steps == pytest.approx([steps[0]] * len(steps))
    assert len({f"{tick:.{scale.digits()}f}" for tick in ticks}) == len(ticks)


@given(st.lists(DELTAS, min_size=1, max_size=20))
def test_forest_draws_every_interval_inside_and_around_its_mean(deltas):
    arms = [
        {"name": f"a{number}", "kind": "semantic", "delta_auc_vs": {"din": delta}}
        for number, delta in enumerate(deltas)
    ]
    forest = charts.forest(arms)
    assert len(forest["rows"]) == len(arms)
    for row in forest["rows"]:
        assert forest["left"] <= row["low"] <= row["mean"] <= row["high"] <= forest["right"]
        assert row["y"] < forest["bottom"] < forest["height"]
    assert forest["left"] <= forest["zero"] <= forest["right"]


@pytest.mark.parametrize("delta", [None, [None, None, None], [0.0, float("nan"), 0.1]])
def test_forest_leaves_out_what_has_no_interval(delta):
    assert charts.forest([{"name": "msd", "kind": "semantic", "delta_auc_vs": {"din": delta}}]) is None
    assert charts.forest([{"name": "msd", "kind": "semantic", "delta_auc_vs": {}}]) is None


@given(st.lists(st.floats(0.3, 0.9), min_size=2, max_size=6), st.integers(1, 20))
def test_exposure_draws_at_most_eight_lines_and_the_semantic_one_among_them(aucs, num_arms):
    names = [f"tabular{number}" for number in range(num_arms)] + ["msd"]
    kinds = {name: "semantic" if name == "msd" else "tabular" for name in names}
    buckets = [{"auc": dict.fromkeys(names, value)} for value in aucs]
    drawn = charts.exposure(buckets, kinds)
    assert len(drawn["lines"]) == min(len(names), charts.MAX_LINES)
    assert "msd" in {line["name"] for line in drawn["lines"]}
    assert len({line["number"] for line in drawn["lines"]}) == len(drawn["lines"])
    for line in drawn["lines"]:
        assert all(drawn["left"] <= x <= drawn["right"] and 0 <= y <= drawn["bottom"] for x, y in line["points"])


def test_exposure_needs_two_buckets_with_both_classes():
    one = {"auc": {"din": 0.6}}
    assert charts.exposure([one, {"auc": {"din": None}}], {"din": "tabular"}) is None


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=10))
def test_reliability_keeps_perfect_promises_on_the_diagonal(pairs):
    assume(any(predicted > 0.01 for predicted, _ in pairs))
    perfect = {"predicted": [p for p, _ in pairs], "observed": [p for p, _ in pairs]}
    drawn = charts.reliability({"din": perfect}, {"din": "tabular"})
    for x, y in drawn["plots"][0]["points"]:
        assert (x - drawn["left"]) + (y - drawn["top"]) == pytest.approx(drawn["size"], abs=0.2)


MARKS = st.dictionaries(st.integers(0, 200).map(str), st.floats(0.4, 0.9), min_size=1, max_size=8)


@given(MARKS, MARKS)
def test_tuning_draws_both_courses_inside(student, tuned):
    drawn = charts.tuning({"student": {"valid_auc": student}, "tuned": {"valid_auc": tuned}})
    assert [len(line["points"]) for line in drawn["lines"]] == [len(student), len(tuned)]
    for line in drawn["lines"]:
        assert all(drawn["left"] <= x <= drawn["right"] and 0 <= y <= drawn["bottom"] for x, y in line["points"])
        assert [x for x, _ in line["points"]] == sorted(x for x, _ in line["points"])
    names = [line["points"][-1][1] + line["nudge"] for line in drawn["lines"]]
    assert abs(names[0] - names[1]) >= charts.NAME_HEIGHT, "the names do not lie on each other"


@pytest.mark.parametrize("curve", [{}, {"student": {"valid_auc": {}}, "tuned": {"valid_auc": {"0": 0.5}}}])
def test_a_student_left_as_it_is_has_no_course(curve):
    assert charts.tuning(curve) is None
