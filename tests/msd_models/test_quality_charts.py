"""Pictures of teacher_quality: every mark lies inside its picture and in the order of its numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msd_models import quality_charts

SHARES = st.floats(0, 1, allow_subnormal=False)
R2 = st.floats(-2, 1, allow_subnormal=False)


@given(st.lists(st.tuples(SHARES, SHARES), min_size=1, max_size=40))
def test_coverage_draws_the_largest_strata_and_counts_the_rest(shares):
    strata = [
        {"stratum": str(number), "share": share, "catalogue_share": listed, "rows": 1, "catalogue_rows": 1}
        for number, (share, listed) in enumerate(shares)
    ]
    drawn = quality_charts.coverage(strata)
    assert len(drawn["rows"]) + drawn["left_out"] == len(strata)
    for row, (share, listed) in zip(drawn["rows"], shares, strict=False):
        assert drawn["left"] <= row["sample"] <= drawn["right"]
        assert drawn["left"] <= row["catalogue"] <= drawn["right"]
        assert (row["sample"] < row["catalogue"]) <= (share < listed)
        assert row["y"] + quality_charts.ROW <= drawn["height"]


@given(st.lists(st.tuples(st.tuples(R2, R2, R2).map(sorted), R2), min_size=1, max_size=4))
def test_redundancy_draws_interval_and_placebo_inside(probes):
    facts = {}
    for number, ((low, middle, high), placebo) in enumerate(probes):
        told = {"interval": (low, high), "r2": middle, "placebo_r2": placebo, "rows": 9}
        facts[str(number)] = {"explicit": told, "implicit": None}
    drawn = quality_charts.redundancy(facts)
    assert len(drawn["rows"]) == len(probes)
    for row in drawn["rows"]:
        assert drawn["left"] <= row["low"] <= row["at"] <= row["high"] <= drawn["right"]
        assert drawn["left"] <= row["placebo"] <= drawn["right"]
        assert row["y"] < drawn["bottom"] < drawn["height"]
    assert drawn["left"] <= drawn["zero"] <= drawn["right"]


def test_without_a_probe_or_a_sweep_nothing_is_drawn():
    assert quality_charts.redundancy({"item": {"explicit": None, "implicit": None}}) is None
    assert quality_charts.sweep({"value": 0.7, "sweep": []}) is None


@given(st.lists(st.tuples(SHARES, SHARES, SHARES), min_size=2, max_size=20), SHARES)
def test_the_sweep_stays_in_its_frame(points, tau):
    steps = [
        {"threshold": number / len(points), "precision": p, "recall": r, "f1": f}
        for number, (p, r, f) in enumerate(points)
    ]
    drawn = quality_charts.sweep({"value": tau, "sweep": steps})
    assert [line["name"] for line in drawn["lines"]] == ["precision", "recall", "F1"]
    assert drawn["left"] <= drawn["tau"] <= drawn["right"]
    for line in drawn["lines"]:
        places = [
            tuple(float(number) for number in place[1:].split())
            for place in line["path"].replace(" L", "|L").split("|")
        ]
        assert len(places) == len(points)
        assert all(drawn["left"] <= x <= drawn["right"] and 0 <= y <= drawn["bottom"] for x, y in places)
        assert [x for x, _ in places] == pytest.approx(sorted(x for x, _ in places))
