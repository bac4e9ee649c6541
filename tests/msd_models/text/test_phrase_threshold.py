"""τ: where the labelled pairs put it, what it is worth on pairs it has not seen, and what a wrong file says."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd_models.phrase_threshold import SHIPPED_PAIRS, TIE, calibrate, choose_threshold, read_pairs
from msd_models.sentence_encoder import SentenceEncoder
from pipeline.config import Student
from pipeline.errors import ConfigError, SourceError
from pipeline.packaged import packaged


def at_angle(texts):
    """Vectors on the unit circle at the angle whose cosine with `0` the text names: cos('0', '0.7') = 0.7."""
    cosine = np.array([1.0 if text == "0" else float(text.split("#")[0]) for text in texts])
    return np.stack([cosine, np.sqrt(1 - cosine**2)], axis=1)


def pairs_of(same, different):
    return [("0", f"{cosine}#{n}", label) for label, group in ((True, same), (False, different))
            for n, cosine in enumerate(group)]  # fmt: skip


def test_separable_pairs_put_it_in_the_middle_of_the_gap():
    found = calibrate(pairs_of([0.8] * 30, [0.4] * 30), at_angle)
    assert found.value == pytest.approx(0.605, abs=0.011)
    assert found.cross_validated_f1 == 1
    assert len(found.sweep) == 101
    assert found.num_pairs == 60


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(0.01, 0.99), min_size=20, max_size=40),
    st.lists(st.floats(0.01, 0.99), min_size=20, max_size=40),
    st.randoms(use_true_random=False),
)
def test_it_ties_with_the_best_and_order_is_nothing(same, different, random):
    pairs = pairs_of(same, different)
    found = calibrate(pairs, at_angle)
    best = max(point.f1 for point in found.sweep)
    # The middle between two grid points stands for the one or the other.
    near = [point for point in found.sweep if abs(point.threshold - found.value) < 0.0051]
    assert max(point.f1 for point in near) >= best - TIE - 1e-12
    recalls = [point.recall for point in found.sweep]
    assert recalls == sorted(recalls, reverse=True)
    mixed = [(b, a, label) if random.random() < 0.5 else (a, b, label) for a, b, label in pairs]
    random.shuffle(mixed)
    assert calibrate(mixed, at_angle) == found


def test_labels_that_say_nothing_are_found_out():
    generator = np.random.default_rng(0)
    found = calibrate(pairs_of(generator.uniform(0, 1, 200), generator.uniform(0, 1, 200)), at_angle)
    assert found.cross_validated_f1 == pytest.approx(2 / 3, abs=0.05)


def test_a_setting_wins_over_the_pairs():
    found = choose_threshold(Student(phrase_threshold=0.75), at_angle)
    assert (found.value, found.sweep) == (0.75, ())
    with pytest.raises(ConfigError, match=r"phrase_threshold is 1\.5"):
        choose_threshold(Student(phrase_threshold=1.5), at_angle)


def test_shipped_pairs_hold_every_kind():
    pairs = read_pairs(packaged(SHIPPED_PAIRS))
    assert len(pairs) >= 240
    assert 0.3 < np.mean([same for *_, same in pairs]) < 0.6
    known = {frozenset((a.casefold(), b.casefold())): same for a, b, same in pairs}
    assert len(known) + sum(a.casefold() == b.casefold() for a, b, _ in pairs) >= len(pairs)
    assert not known[frozenset(("crime film", "crime novel"))]
    assert not known[frozenset(("not violent", "violent"))]
    assert sum(not a.isascii() and not b.isascii() for a, b, _ in pairs) >= 20


def test_the_default_encoder_tells_pairs_it_was_not_tuned_on():
    """0.74 as measured; accepting every pair scores 0.62."""
    found = choose_threshold(Student(), SentenceEncoder("all-minilm-l6-v2").encode)
    assert 0.3 < found.value < 0.6
    assert found.cross_validated_f1 > 0.70


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"a": "x", "b": "y", "same": 1}'], r"pairs\.jsonl:1: same must be of type bool"),
        (['{"a": "x", "b": "y", "same": true}', "[]"], r"pairs\.jsonl:2: wanted an object"),
        (
            [json.dumps({"a": f"a{n}", "b": f"b{n}", "same": True}) for n in range(50)],
            "50 pairs that are the same and 0",
        ),
    ],
)
def test_a_wrong_file_says_where_and_what(tmp_path, lines, message):
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises((SourceError, ConfigError), match=message):
        choose_threshold(Student(phrase_pairs=str(path)), at_angle)


def test_no_such_file(tmp_path):
    with pytest.raises(SourceError, match="is not a file"):
        choose_threshold(Student(phrase_pairs=str(tmp_path / "none.jsonl")), at_angle)
