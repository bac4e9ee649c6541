"""The terminal's table: readable with many arms, silent where nothing may be said."""

import pytest

from pipeline import results

SEMANTIC = ("msd_frozen", "msd", "msd_no_user", "msd_no_fusion", "kar", "elec_gain", "msd_mask_word2vec")
TABULAR = ("deepfm", "din", "dcnv2", "mlp")
PLACEBOS = ("random_vectors", "shuffled_vectors", "raw_text")


def arm(name, kind):
    return {"name": name, "kind": kind, "auc": 0.71, "auc_ci": [0.7, 0.72], "gauc_impression": 0.7, "gauc_user": 0.69,
            "logloss": 0.6, "rela_impr": -12.34, "delta_auc_vs": {"din": [-0.0123, -0.01, 0.0123]}}  # fmt: skip


@pytest.fixture
def report():
    arms = [arm(name, "tabular") for name in TABULAR] + [arm(name, "placebo") for name in PLACEBOS]
    arms += [arm(name, "semantic") for name in SEMANTIC]
    taught = arm("elec_vanilla", "distilled") | {"gap_recovered": {"share": [0.25, 0.5, 0.75]}}
    cold = {"exposures_below": 10, "rows": 1234, "arms": [arm(name, "semantic") for name in SEMANTIC]}
    return {
        "source": "made up",
        "split": {"test": 10_000},
        "seeds": [1, 2, 3],
        "arms": [*arms, taught],
        "cold": cold,
        "claims": [{"arm": name, "finding": "gain"} for name in SEMANTIC[:2]]
        + [{"arm": name, "finding": "no_difference"} for name in SEMANTIC[2:]],
        "verdict": ["a long headline", *(f"a long sentence on {name}" for name in SEMANTIC)],
        "audit": {"leaks": {}, "sentence": "Leak audit: 0 of 70 rows know their future."},
    }


def test_fifteen_arms_fit_a_line_each(report, capsys):
    results.print_results(report)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= results.WIDE_CHARACTERS
    for one in report["arms"]:
        assert sum(line.split()[:1] == [one["name"]] for line in lines[2:17]) == 1


def test_many_claims_are_told_by_finding(report):
    said = results.told(report)
    assert said[0] == "Beats both of its placebos: msd_frozen, msd"
    assert not any("long sentence" in line for line in said)
    assert any(
        line.startswith("Cold items (fewer than 10 exposures, 1,234 rows)") and "msd -0.01" in line for line in said
    )
    assert "elec_vanilla keeps 50% [25%, 75%] of the lead it was taught, without vectors" in said
    assert said[-1] == "Leak audit: 0 of 70 rows know their future."


def test_few_claims_are_told_in_their_own_words(report):
    report |= {"claims": report["claims"][:1], "verdict": ["msd_frozen beats both"]}
    assert results.told(report)[0] == "msd_frozen beats both"


def test_with_leaks_nothing_but_them_is_told(report):
    report |= {
        "verdict": ["No claim is made", "7 findings"],
        "audit": {"leaks": {"history": 7}, "sentence": "7 findings"},
    }
    assert results.told(report) == ["No claim is made", "7 findings"]


def test_a_report_without_the_new_parts_still_prints(report, capsys):
    for key in ("cold", "claims", "audit", "verdict"):
        del report[key]
    results.print_results(report)
    assert "elec_vanilla" in capsys.readouterr().out
