"""A gain is claimed over both placebos or not at all."""

import itertools

import pytest

from msd_models.leaks import Leaks
from msd_models.verdict import Finding, judge, sentences

ABOVE, ACROSS, BELOW = [0.001, 0.003, 0.005], [-0.002, 0.001, 0.004], [-0.005, -0.003, -0.001]
MODEL_OF = {"msd_frozen": "semantic", "din": "tabular", "raw_text": "placebo"}


def arm(deltas, name="msd_frozen"):
    return {"name": name, "kind": MODEL_OF.get(name, "semantic"), "delta_auc_vs": deltas}


@pytest.mark.parametrize(("raw", "shuffled", "din"), [*itertools.product([ABOVE, ACROSS, BELOW], repeat=3)])
def test_a_gain_needs_both_intervals_above_zero(raw, shuffled, din):
    (claim,) = judge([arm({"raw_text": raw, "shuffled_vectors": shuffled, "din": din})])
    assert (claim.finding is Finding.GAIN) == (raw is ABOVE and shuffled is ABOVE)
    assert (claim.finding is Finding.WORSE) == (BELOW in (raw, shuffled))
    assert ("beats both" in claim.sentence) == (claim.finding is Finding.GAIN)
    assert ("not distinguishable from its placebos" in claim.sentence) == (claim.finding is Finding.NO_DIFFERENCE)
    assert ("worse than din" in claim.sentence) == (din is BELOW)


@pytest.mark.parametrize(
    ("din", "words"),
    [(ABOVE, "also beats din"), (ACROSS, "Against din"), (BELOW, "worse than din"), (None, "is not known")],
)
def test_a_gain_over_placebos_says_how_it_stands_to_din(din, words):
    deltas = {"raw_text": ABOVE, "shuffled_vectors": ABOVE} | ({"din": din} if din else {})
    (claim,) = judge([arm(deltas)])
    assert words in claim.sentence


def test_an_interval_that_touches_zero_is_no_gain():
    touching = [0.0, 0.002, 0.004]
    (claim,) = judge([arm({"raw_text": touching, "shuffled_vectors": ABOVE})])
    assert claim.finding is Finding.NO_DIFFERENCE
    assert "plain embedding" in claim.sentence


def test_half_a_gain_over_raw_text_alone_counts_for_nothing():
    (claim,) = judge([arm({"raw_text": ABOVE, "shuffled_vectors": ACROSS})])
    assert "counts for nothing" in claim.sentence


@pytest.mark.parametrize("undefined", [None, [None, None, None], [float("nan")] * 3])
@pytest.mark.parametrize("placebo", ["raw_text", "shuffled_vectors"])
def test_without_a_placebo_no_claim_can_be_made(placebo, undefined):
    deltas = {"raw_text": ABOVE, "shuffled_vectors": ABOVE, "din": ABOVE} | {placebo: undefined}
    (claim,) = judge([arm(deltas)])
    assert claim.finding is Finding.NO_CLAIM
    assert claim.sentence == f"No claim can be made for msd_frozen: {placebo} was not trained beside it."


def test_placebos_and_tabular_arms_are_not_judged():
    assert judge([arm({}, "din"), arm({"shuffled_vectors": ABOVE}, "raw_text")]) == []
    assert sentences([]) == ["No arm with a teacher's knowledge was trained, so no claim about it can be made."]


def test_the_headline_counts_only_gains():
    good, flat = {"raw_text": ABOVE, "shuffled_vectors": ABOVE}, {"raw_text": ACROSS, "shuffled_vectors": ACROSS}
    said = sentences(judge([arm(good, "msd"), arm(flat, "kar")]))
    assert said[0] == "1 of 2 semantic arms beat both of their placebos: msd."
    assert len(said) == 3
    said = sentences(judge([arm(flat, "msd"), arm(flat, "kar")]))
    assert said[0] == "None of the 2 semantic arms beats both of its placebos."


def test_numbers_in_a_sentence_carry_their_sign():
    (claim,) = judge([arm({"raw_text": ACROSS, "shuffled_vectors": ABOVE})])
    assert "+0.0010 [−0.0020, +0.0040] against raw_text" in claim.sentence


LEAKS = Leaks(
    checked=100,
    counts={"history": 4, "prompt": 1},
    first=[{"event_id": 3, "user_id": "u1", "item_id": "i2", "leak": "history", "evidence": "it holds i9 of tomorrow"}],
)
CLEAN = Leaks(checked=100, counts={}, first=[])


def vanilla(share, lead=ABOVE):
    gap = {"base": "din", "gain": "elec_gain", "lead": lead, "share": share}
    return {"name": "elec_vanilla", "kind": "distilled", "delta_auc_vs": {}, "gap_recovered": gap}


def test_a_leak_takes_every_claim_back_and_is_named():
    arms = [arm({"raw_text": ABOVE, "shuffled_vectors": ABOVE, "din": ABOVE}), vanilla([0.3, 0.5, 0.7])]
    claims = judge(arms, LEAKS)
    assert {claim.finding for claim in claims} == {Finding.NO_CLAIM}
    said = " ".join(sentences(claims, LEAKS))
    assert said.startswith("No claim is made")
    assert "5 findings in 100 rows (history 4, prompt 1)" in said
    assert "Event 3 of user u1 on item i2 (history): it holds i9 of tomorrow" in said
    assert "msd audit" in said
    assert "beats" not in said


def test_a_clean_audit_changes_nothing():
    arms = [arm({"raw_text": ABOVE, "shuffled_vectors": ABOVE, "din": ABOVE}), vanilla([0.3, 0.5, 0.7])]
    assert judge(arms, CLEAN) == judge(arms)
    assert sentences(judge(arms), CLEAN) == sentences(judge(arms))


@pytest.mark.parametrize(
    ("share", "finding", "words"),
    [
        ([0.3, 0.5, 0.7], Finding.RECOVERS, "keeps 50% [30%, 70%] of elec_gain's lead over din"),
        ([-0.1, 0.5, 0.7], Finding.NO_DIFFERENCE, "not shown to keep any"),
        ([-0.7, -0.5, -0.3], Finding.WORSE, "worse than din"),
    ],
)
def test_a_vanilla_network_is_judged_by_the_share_it_keeps(share, finding, words):
    (claim,) = judge([vanilla(share)])
    assert claim.finding is finding
    assert words in claim.sentence


@pytest.mark.parametrize(("lead", "verb"), [(ACROSS, "does not lead"), (BELOW, "trails")])
def test_of_a_lead_that_may_be_nothing_no_share_is_taken(lead, verb):
    (claim,) = judge([vanilla(None, lead)])
    assert claim.finding is Finding.NO_DIFFERENCE
    assert f"nothing to recover: elec_gain {verb} din" in claim.sentence
    assert "%" not in claim.sentence


def test_a_kept_lead_is_the_teachers_only_where_the_gain_network_beats_its_placebos():
    good, flat = {"raw_text": ABOVE, "shuffled_vectors": ABOVE}, {"raw_text": ACROSS, "shuffled_vectors": ACROSS}
    for deltas, is_shown in ((good, True), (flat, False)):
        claims = judge([arm(deltas, "elec_gain"), vanilla([0.3, 0.5, 0.7])])
        assert ("is not shown" not in claims[1].sentence) == is_shown


def test_without_its_teacher_or_its_backbone_no_claim_can_be_made():
    (claim,) = judge([vanilla(None) | {"gap_recovered": None}])
    assert claim.finding is Finding.NO_CLAIM
