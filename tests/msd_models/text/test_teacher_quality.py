"""teacher_quality: rates, probe and coverage against plain counts and worlds whose truth is known."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd_models.coverage import coverage, divergence, effective_size
from msd_models.redundancy import MIN_ROWS, ProbeRow, redundancy, sentence
from msd_models.stable_sample import StableSample
from msd_models.teacher_quality import examine
from msd_models.teacher_tally import MOVES, TeacherTally
from pipeline import schemas
from pipeline.config import TeacherQuality
from pipeline.errors import ConfigError

CONFIG = TeacherQuality(max_probe_rows=100)
WORDS = st.sampled_from(("red", "blue", "calm", "loud"))
SHARES = st.lists(st.floats(0.01, 1), min_size=1, max_size=6)


@st.composite
def outputs(draw):
    """A row of teacher_outputs."""
    number = draw(st.integers(0, 10_000))
    is_ok = draw(st.booleans())
    counts = {name: draw(st.integers(0, 3)) for name in (*MOVES, "attempts", "text_tokens_cut")}
    lists = [draw(st.lists(WORDS, max_size=3)) if is_ok else [] for _ in range(2)]
    return {
        "prompt_id": f"item:{number}", "level": draw(st.sampled_from(("item", "user"))), "entity_id": str(number),
        "stratum": draw(st.sampled_from(("film", "song"))), "text": "t", "status": "ok" if is_ok else "rejected",
        "representative_id": f"item:{number + draw(st.integers(0, 1))}",
        "reason": None if is_ok else draw(st.sampled_from(("empty", "refused"))), "rationale": "", "raw_text": "",
        "explicit_phrases": lists[0], "implicit_phrases": lists[1], "template_id": "t", "reference_ids": [],
        "content_key": "k", "prompt_tokens": 3, "output_tokens": 2, **counts,
    }  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(st.lists(outputs(), min_size=1, max_size=12), st.integers(1, 12))
def test_rates_are_plain_counts_whatever_the_batches(rows, batch_rows):
    tally = TeacherTally()
    for batch in pa.Table.from_pylist(rows, schema=schemas.TEACHER_OUTPUTS).to_batches(max_chunksize=batch_rows):
        tally.add(batch)
    facts = tally.facts()
    assert tally.rows == facts["overall"]["rows"] == len(rows)
    for level, told in facts["levels"].items():
        for stratum in told["strata"]:
            of = [row for row in rows if (row["level"], row["stratum"]) == (level, stratum["stratum"])]
            own = [row for row in of if row["representative_id"] == row["prompt_id"]]
            kept = sum(len(row["explicit_phrases"]) + len(row["implicit_phrases"]) for row in of)
            said = kept + sum(row["unrelated_phrases"] + row["repeated_phrases"] for row in of)
            assert stratum["rows"] == len(of)
            assert stratum["reasons"] == Counter(row["reason"] for row in of if row["reason"])
            assert stratum["collapsed"] == len(of) - len(own)
            assert stratum["phrases_said"] == said
            moved = sum(row["moved_to_implicit"] for row in of)
            assert stratum["moved_to_implicit_share"] == (pytest.approx(moved / said) if said else None)
            attempts = sum(row["attempts"] for row in own)
            assert stratum["attempts_per_row"] == (pytest.approx(attempts / len(own)) if own else None)
            assert stratum["texts_cut"] == sum(row["text_tokens_cut"] > 0 for row in of)
    parts = [stratum["rows"] for told in facts["levels"].values() for stratum in told["strata"]]
    assert sum(parts) == len(rows)


def as_vectors(texts):
    """`1.0,0.5` → a vector of these numbers."""
    return np.array([[float(number) for number in text.split(",")] for text in texts], dtype=np.float32)


def world(num_rows, knows):
    """Rows whose phrase vector is a turn of the text's for a share of its length, and noise for the rest."""
    generator = np.random.default_rng(0)
    text_N4, noise_N4 = generator.normal(size=(2, num_rows, 4))
    turn = np.linalg.qr(generator.normal(size=(4, 4)))[0]
    said_N4 = np.sqrt(knows) * text_N4 @ turn + np.sqrt(1 - knows) * noise_N4
    written = [",".join(f"{number:.5f}" for number in row) for row in (*text_N4, *said_N4)]
    return [ProbeRow(key=str(n), text=written[n], phrases=[written[num_rows + n]]) for n in range(num_rows)]


@pytest.mark.parametrize("knows", [0.0, 0.3, 0.9])
def test_the_probe_finds_the_share_that_the_text_knows(knows):
    found = redundancy(world(800, knows), as_vectors, folds=5, seed=0)
    assert found.r2 == pytest.approx(knows, abs=0.06)
    assert found.interval[0] - 0.02 <= knows <= found.interval[1] + 0.02
    assert found.placebo_r2 == pytest.approx(0, abs=0.03)
    assert found.rows == 800


def test_the_probe_says_nothing_of_few_rows_or_of_one_phrase():
    rows = world(MIN_ROWS, 0.9)
    assert redundancy(rows[1:], as_vectors, folds=5, seed=0) is None
    assert redundancy([replace(row, phrases=[]) for row in rows], as_vectors, folds=5, seed=0) is None
    assert redundancy([replace(row, phrases=["1,0,0,0"]) for row in rows], as_vectors, folds=5, seed=0) is None


def test_the_sentence_claims_only_what_stands_clear_of_the_placebo():
    clear, blurred = (
        redundancy(world(rows, knows), as_vectors, folds=5, seed=0) for rows, knows in ((800, 0.5), (40, 0))
    )
    assert "predicts 5" in sentence("item", "implicit", clear)
    assert "too few (40)" in sentence("item", "implicit", blurred)


@given(SHARES, SHARES)
def test_divergence_is_nought_only_from_itself(first, second):
    p, q = ({n: share / sum(shares) for n, share in enumerate(shares)} for shares in (first, second))
    assert divergence(p, p) == pytest.approx(0, abs=1e-9)
    found = divergence(p, q)
    if found is None:
        assert len(first) > len(second)
    else:
        difference = sum(abs(p.get(key, 0) - q.get(key, 0)) for key in p | q)
        assert found >= difference**2 / 2 - 1e-9, "Pinsker"


@given(st.lists(st.floats(0.01, 1), min_size=1))
def test_effective_size_is_between_one_and_the_rows(probabilities):
    weights = [1 / probability for probability in probabilities]
    size = effective_size(sum(weights), sum(weight**2 for weight in weights))
    assert 1 - 1e-9 <= size <= len(weights) + 1e-9
    assert effective_size(len(weights), len(weights)) == len(weights)


@given(st.lists(st.text(max_size=4), unique=True), st.integers(0, 6), st.randoms(use_true_random=False))
def test_a_stable_sample_depends_on_keys_alone(keys, size, random):
    def sampled(order, most):
        sample = StableSample(most, seed=0, purpose="test")
        for key in order:
            sample.offer(key, key)
        return sample.rows()

    found = sampled(keys, size)
    assert found == sampled(random.sample(keys, len(keys)), size)
    assert len(found) == min(size, len(keys))
    assert sampled(keys, size + 1)[:size] == found


def prompt_of(row, probability):
    return {"prompt_id": row["prompt_id"], "level": "item", "entity_id": row["entity_id"], "snapshot_at": None,
            "stratum": row["stratum"], "text": row["text"], "representative_id": row["prompt_id"],
            "teacher_text": row["text"], "inclusion_probability": probability}  # fmt: skip


@pytest.fixture(scope="module")
def prompts(save, teacher_rows):
    return save("prompts", schemas.PROMPTS, [prompt_of(row, 0.5) for row in teacher_rows])


def test_a_sample_like_its_catalogue_differs_by_nothing(prompts, items, item_stats):
    found = coverage(prompts, items, item_stats)
    told = found["levels"]["item"]
    assert told["kl_sample_from_catalogue"] == told["kl_catalogue_from_sample"] == 0
    assert told["effective_rows"] == told["rows"] == items.num_rows()
    assert told["strata"] == [{"stratum": "other", "rows": 48, "share": 1, "catalogue_rows": 48, "catalogue_share": 1,
                               "estimated_rows": 96}]  # fmt: skip
    assert found["overall"]["missing_strata"] == 0


def test_a_stratum_left_out_and_exposures_are_told(save, item_rows, item_stats, teacher_rows):
    catalogue = [{**row, "category": "film" if number % 4 else "song"} for number, row in enumerate(item_rows)]
    drawn = [{**row, "stratum": "film"} for number, row in enumerate(teacher_rows) if number % 4 == 1]
    stats = [{**row, "exposures": 3 if row["item_id"] == "i1" else 1} for row in item_stats.table().to_pylist()]
    found = coverage(
        save("prompts", schemas.PROMPTS, [prompt_of(row, 0.25) for row in drawn]),
        save("items", schemas.ITEMS, catalogue),
        save("item_stats", schemas.ITEM_STATS, stats),
    )["levels"]["item"]
    assert found["kl_catalogue_from_sample"] is None
    assert (found["missing_strata"], found["missing_share"]) == (1, 0.25)
    assert found["kl_sample_from_catalogue"] == pytest.approx(np.log(1 / 0.75))
    assert found["exposure_share"] == pytest.approx((12 + 2) / (48 + 2))


def test_the_stage_writes_what_the_report_reads(tmp_path, teacher_outputs, prompts, items, item_stats):
    inputs = {"prompts": prompts, "items": items, "item_stats": item_stats}
    outcome = examine(CONFIG, tmp_path, teacher_outputs, **inputs)
    written = json.loads((tmp_path / "quality.json").read_text())
    shown = json.loads((Path(__file__).parents[1] / "quality.json").read_text())
    for part in ("rates", "redundancy", "coverage", "tau"):
        assert keys_of(written[part], 1) == keys_of(shown[part], 1), part
    assert outcome.rows_in == outcome.rows_ok == 48
    assert "strata" not in outcome.details["rates"]["levels"]["item"]
    assert written["gold"] is None
    assert written["redundancy"]["item"]["explicit"]["r2"] > 0.5, "the phrase is the text's first word"
    before = (tmp_path / "quality.json").read_bytes()
    examine(CONFIG, tmp_path, teacher_outputs, **inputs)
    assert (tmp_path / "quality.json").read_bytes() == before


def keys_of(facts, depth):
    """Keys down to a depth, levels of the data left out."""
    known = {key: value for key, value in facts.items() if key not in ("item", "user")}
    nested = {key: keys_of(value, depth - 1) for key, value in known.items() if isinstance(value, dict) and depth}
    return {key: nested.get(key) for key in known}


def test_gold_of_the_settings_is_measured_against(tmp_path, teacher_outputs, prompts, items, item_stats):
    gold = tmp_path / "gold.jsonl"
    rows = teacher_outputs.table().to_pylist()[:4]
    gold.write_text("".join(json.dumps({"text": row["text"], "level": "item", "explicit": row["explicit_phrases"],
                                        "implicit": []}) + "\n" for row in rows))  # fmt: skip
    config = replace(CONFIG, gold=str(gold), phrase_threshold=0.99)
    details = examine(config, tmp_path, teacher_outputs, prompts=prompts, items=items, item_stats=item_stats).details
    assert details["gold"]["rows"] == 4
    assert details["gold"]["by_list"] == {"explicit": 1, "implicit": 0}
    assert details["gold"]["f1_micro"] == pytest.approx(2 / 3)
    assert details["tau"]["value"] == 0.99


def test_one_fold_is_refused(tmp_path, teacher_outputs):
    with pytest.raises(ConfigError, match="probe_folds is 1; wanted 2 or more"):
        examine(replace(CONFIG, probe_folds=1), tmp_path, teacher_outputs, teacher_outputs, teacher_outputs,
                teacher_outputs)  # fmt: skip
