"""Cold items in words: a lead is stated over its interval alone, a missing one explained by what was measured."""

import pytest

from msd_models.cold_verdict import cold_sentences

QUALITY = {"redundancy": {"item": {"explicit": {"sentence": "A plain vector knows 93%."}, "implicit": None}}}
DISTILLED = {"f1_by_list": {"explicit": 0.5, "implicit": 0.12}}


def cold(delta, text=(0.001, 0.002, 0.003), over_text=(0.001, 0.002, 0.003)):
    arms = [
        {"name": "din", "kind": "tabular", "delta_auc_vs": {}},
        {"name": "raw_text", "kind": "placebo", "delta_auc_vs": {"din": list(text)}},
        {"name": "kar", "kind": "semantic", "delta_auc_vs": {"din": [0.5, 0.5, 0.5]}},
        {"name": "msd", "kind": "semantic", "delta_auc_vs": {"din": list(delta), "raw_text": list(over_text)}},
    ]
    return {"exposures_below": 10, "rows": 547, "clicks": 216, "arms": arms}


def test_a_lead_is_stated_with_its_interval_and_beside_the_text():
    (said,) = cold_sentences(cold((0.02, 0.03, 0.04)), QUALITY, DISTILLED, {})
    assert said.startswith("On cold items msd leads din: AUC +0.0300 [+0.0200, +0.0400].")
    assert "It leads raw_text" in said
    (said,) = cold_sentences(cold((0.001, 0.002, 0.003), over_text=(-0.1, 0, 0.1)), QUALITY, DISTILLED, {})
    assert "by less than 0.01" in said
    assert "not shown to lead raw_text" in said


@pytest.mark.parametrize(
    ("delta", "verb"), [((-0.05, 0.01, 0.07), "is not shown to lead din"), ((-0.07, -0.05, -0.03), "trails din")]
)
def test_a_missing_lead_is_explained_by_the_probes(delta, verb):
    first, *reasons = cold_sentences(cold(delta), QUALITY, DISTILLED, {"is_tuned": False})
    assert verb in first
    said = " ".join(reasons)
    assert "547 rows with 216 clicks are few" in said
    assert "The text itself helps there" in said
    assert "Of the teacher's explicit phrases: a plain vector knows 93%." in said
    assert "F1 of 0.50 on explicit and 0.12 on implicit" in said
    assert "Tuning by clicks did not help" in said


def test_what_does_not_explain_it_is_not_said():
    said = " ".join(cold_sentences(cold((-0.002, 0.001, 0.004), text=(-0.1, 0.0, 0.1)), {}, {}, {"is_tuned": True}))
    assert "few" not in said
    assert "not shown to help there" in said
    assert "Tuning" not in said


@pytest.mark.parametrize("part", [None, {"arms": [{"name": "din", "kind": "tabular", "delta_auc_vs": {}}]}])
def test_without_an_arm_or_a_row_nothing_is_said(part):
    assert cold_sentences(part, QUALITY, DISTILLED, {}) == []


def test_an_undefined_interval_is_no_lead():
    undefined = cold((None, None, None))
    del undefined["arms"][2]
    assert cold_sentences(undefined, QUALITY, DISTILLED, {}) == []
