"""What a codec stores is what it says, and what comes out is what went in, up to the precision stated."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.vector_codec import Codec, Precision, fit_basis, fit_codec
from pipeline.errors import ConfigError, StageError


def vectors(count: int, dim: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((count, dim)) * scale).astype(np.float32)


@given(st.integers(1, 40), st.integers(1, 70), st.sampled_from([1e-6, 1.0, 500.0]))
def test_round_trips_stay_within_the_precision(count: int, dim: int, scale: float):
    given_ND = vectors(count, dim, count, scale)
    largest_N1 = np.abs(given_ND).max(axis=1, keepdims=True)
    steps = {"float32": 0.0, "float16": 2.0**-11 * largest_N1 + 2.0**-25, "int8": 0.502 / 127 * largest_N1}
    for precision, bound in steps.items():
        codec = fit_codec(precision, 0, given_ND)
        encoded = codec.encode(given_ND)
        assert encoded.payload_NB.shape == (count, codec.num_bytes)
        decoded_ND = codec.decode(encoded.payload_NB)
        assert decoded_ND.dtype == np.float32
        assert (np.abs(decoded_ND - given_ND) <= bound).all()
        again = codec.encode(decoded_ND)
        assert (codec.decode(again.payload_NB) == decoded_ND).all() or precision == "int8"


def test_bytes_are_laid_out_as_said():
    given_ND = np.array([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]], dtype=np.float32)
    halves = fit_codec("float16", 0, given_ND).encode(given_ND).payload_NB
    assert halves.tobytes() == given_ND.astype("<f2").tobytes()
    eighths = fit_codec("int8", 0, given_ND).encode(given_ND).payload_NB
    assert eighths[0, :4].tobytes() == np.float32(2 / 127).tobytes()
    assert eighths[0, 4:].view(np.int8).tolist() == [64, -127, 32]
    assert not eighths[1].any()


def test_float32_is_passed_on_without_a_copy():
    given_ND = vectors(5, 8)
    assert np.shares_memory(fit_codec("float32", 0, given_ND).encode(given_ND).payload_NB, given_ND)


@pytest.mark.parametrize("precision", list(Precision))
def test_a_stored_codec_is_the_same_codec(precision: Precision):
    given_ND = vectors(50, 12)
    codec = fit_codec(precision, 5, given_ND)
    again = Codec.from_json(json.loads(json.dumps(codec.to_json())), codec.basis_bytes())
    assert again.encode(given_ND).payload_NB.tobytes() == codec.encode(given_ND).payload_NB.tobytes()
    payload_NB = codec.encode(given_ND).payload_NB
    assert (again.decode(payload_NB) == codec.decode(payload_NB)).all()


@pytest.mark.parametrize(("dim", "components"), [(24, 9), (130, 64), (576, 128)])
def test_a_vectors_bytes_do_not_depend_on_those_beside_it(dim: int, components: int):
    given_ND = vectors(700, dim)
    codec = fit_codec("float32", components, given_ND[:200])
    payload_NB = codec.encode(given_ND).payload_NB
    decoded_ND = codec.decode(payload_NB)
    rng = np.random.default_rng(1)
    for count in (1, 2, 3, 63, 64, 65, 333):
        rows = rng.choice(700, count, replace=False)
        assert np.array_equal(codec.encode(given_ND[rows]).payload_NB, payload_NB[rows])
        assert np.array_equal(codec.decode(payload_NB[rows]), decoded_ND[rows])


def test_a_basis_keeps_what_varies_most():
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.standard_normal((20, 20)))[0]
    spread = np.array([10.0, 5.0, 3.0] + [0.0] * 17)
    given_ND = ((rng.standard_normal((200, 20)) * spread) @ directions.T + 7).astype(np.float32)
    codec = fit_codec("float32", 3, given_ND)
    assert np.abs(codec.decode(codec.encode(given_ND).payload_NB) - given_ND).max() < 1e-3
    assert codec.basis_Dd is not None
    assert np.allclose(codec.basis_Dd.T @ codec.basis_Dd, np.eye(3), atol=1e-6)
    stored = codec.encode(given_ND).payload_NB.view("<f4")
    assert np.allclose(stored.std(axis=0), spread[:3], rtol=0.2)


def test_a_basis_does_not_depend_on_signs_left_open():
    given_ND = vectors(60, 9)
    one, other = fit_basis(given_ND, 9), fit_basis(given_ND[::-1].copy(), 9)
    assert np.allclose(one[1], other[1], atol=1e-4)


def test_what_float16_cannot_hold_is_refused():
    given_ND = vectors(3, 4) + np.float32(70_000)
    with pytest.raises(StageError, match="precision=int8"):
        fit_codec("float16", 0, given_ND).encode(given_ND)


@pytest.mark.parametrize(("precision", "dimensions"), [("float8", 0), ("int8", 13), ("int8", -1), ("float32", 12)])
def test_settings_that_cannot_be_are_refused(precision: str, dimensions: int):
    with pytest.raises(ConfigError, match="publication"):
        fit_codec(precision, dimensions, vectors(11, 12))


def test_a_basis_of_another_size_is_refused():
    codec = fit_codec("int8", 3, vectors(11, 12))
    with pytest.raises(StageError, match="basis"):
        Codec.from_json(codec.to_json(), codec.basis_bytes()[:-4])
