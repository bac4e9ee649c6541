"""Vectors ↔ the bytes one takes in Redis: float32, float16 or int8, of the vector or of its principal components.

float32 goes out as Feast's Array(Float32), which any Feast client decodes. Of the others Feast sees Bytes: float16
little-endian, or the vector's float32 scale followed by int8, where value = scale · int8. A codec belongs to a
generation and is stored beside it; its basis (mean, then components, as float32) lies apart from its JSON.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import ConfigError, StageError

# N vectors, D dimensions of the space, d dimensions stored, B bytes a vector

_INT8_LIMIT = 127
_SCALE_BYTES = 4
_BASIS_BITS = 20
_EXACT_BITS = 52
Floats = npt.NDArray[np.float32]


class Precision(StrEnum):
    """Of one number of a stored vector."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoded:
    """Vectors as they are stored."""

    payload_NB: npt.NDArray[np.uint8]
    is_array: bool
    """True where Feast knows the value as Array(Float32), False where as Bytes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Codec:
    """How a generation's vectors are stored."""

    precision: Precision
    dim: int
    """D, of the vectors that go in and come out."""
    stored_dim: int
    """d: of what is stored; D without a basis."""
    basis_Dd: Floats | None = None
    """Orthonormal principal components; None stores the vector itself."""
    mean_D: Floats | None = None
    """Subtracted before the projection."""

    @property
    def num_bytes(self) -> int:
        """B."""
        if self.precision is Precision.INT8:
            return _SCALE_BYTES + self.stored_dim
        return self.stored_dim * (4 if self.precision is Precision.FLOAT32 else 2)

    @property
    def is_array(self) -> bool:
        """True where Feast's own clients see the numbers."""
        return self.precision is Precision.FLOAT32

    @property
    def feature_type(self) -> pa.DataType:
        """Of the feature as Feast's registry knows it."""
        return pa.list_(pa.float32()) if self.is_array else pa.binary()

    def encode(self, vectors_ND: Floats) -> Encoded:
        """The bytes of each vector.

        Args:
            vectors_ND: finite float32 [N, D]; float32 without a basis is passed on without a copy.

        Raises:
            StageError: a number is beyond what float16 can hold.
        """
        assert vectors_ND.shape[1] == self.dim, "a codec is made for one space"
        stored_Nd = vectors_ND
        if self.basis_Dd is not None and self.mean_D is not None:
            stored_Nd = _product(vectors_ND - self.mean_D, self.basis_Dd)
        if self.precision is Precision.INT8:
            return Encoded(payload_NB=_scaled(stored_Nd), is_array=False)
        numbers = _halved(stored_Nd) if self.precision is Precision.FLOAT16 else stored_Nd
        little_endian = np.ascontiguousarray(numbers, dtype=numbers.dtype.newbyteorder("<"))
        payload_NB = little_endian.view(np.uint8).reshape(len(stored_Nd), self.num_bytes)
        return Encoded(payload_NB=payload_NB, is_array=self.is_array)

    def decode(self, payload_NB: npt.NDArray[np.uint8]) -> Floats:
        """float32 [N, D] of stored bytes [N, B]."""
        contiguous = np.ascontiguousarray(payload_NB)
        if self.precision is Precision.INT8:
            scale_N1 = np.ascontiguousarray(contiguous[:, :_SCALE_BYTES]).view("<f4")
            stored_Nd = contiguous[:, _SCALE_BYTES:].view(np.int8) * scale_N1
        else:
            kind = "<f4" if self.is_array else "<f2"
            stored_Nd = contiguous.view(kind).reshape(len(contiguous), self.stored_dim).astype(np.float32, copy=False)
        if self.basis_Dd is None or self.mean_D is None:
            return stored_Nd
        return _product(stored_Nd, self.basis_Dd.T) + self.mean_D

    def to_json(self) -> dict[str, Any]:
        """Everything but the basis."""
        return {
            "precision": self.precision.value,
            "dim": self.dim,
            "stored_dim": self.stored_dim,
            "has_basis": self.basis_Dd is not None,
        }

    def basis_bytes(self) -> bytes:
        """Mean and basis as little-endian float32; empty where there is none."""
        if self.basis_Dd is None or self.mean_D is None:
            return b""
        return self.mean_D.astype("<f4").tobytes() + self.basis_Dd.astype("<f4").tobytes()

    @staticmethod
    def from_json(facts: dict[str, Any], basis: bytes) -> "Codec":
        """The codec of to_json and basis_bytes.

        Raises:
            StageError: the basis is not of the size the codec says.
        """
        dim, stored_dim = int(facts["dim"]), int(facts["stored_dim"])
        precision = Precision(facts["precision"])
        if not facts["has_basis"]:
            return Codec(precision=precision, dim=dim, stored_dim=stored_dim)
        if len(basis) != 4 * dim * (1 + stored_dim):
            raise StageError(
                f"the basis of the published vectors has {len(basis)} bytes, wanted {4 * dim * (1 + stored_dim)};"
                " publish again: msd run publication"
            )
        numbers = np.frombuffer(basis, dtype="<f4").astype(np.float32, copy=False)
        mean_D, basis_Dd = numbers[:dim], numbers[dim:].reshape(dim, stored_dim)
        return Codec(precision=precision, dim=dim, stored_dim=stored_dim, basis_Dd=basis_Dd, mean_D=mean_D)


def fit_codec(precision: str, dimensions: int, sample_ND: Floats) -> Codec:
    """The codec of a publication's settings.

    Args:
        precision: float32, float16 or int8.
        dimensions: principal components kept, of a basis fitted on the sample; 0 for none.
        sample_ND: vectors of the space.

    Raises:
        ConfigError: there is no such precision, or fewer dimensions or sampled vectors than components.
    """
    if precision not in list(Precision):
        raise ConfigError(f"publication.precision is {precision!r}; wanted one of {', '.join(Precision)}")
    dim = sample_ND.shape[1]
    if not dimensions:
        return Codec(precision=Precision(precision), dim=dim, stored_dim=dim)
    if not 0 < dimensions <= min(sample_ND.shape):
        raise ConfigError(
            f"publication.dimensions is {dimensions}; wanted at most {min(sample_ND.shape)}: there are"
            f" {len(sample_ND)} vectors of {dim} dimensions"
        )
    mean_D, basis_Dd = fit_basis(sample_ND, dimensions)
    return Codec(precision=Precision(precision), dim=dim, stored_dim=dimensions, basis_Dd=basis_Dd, mean_D=mean_D)


def fit_basis(sample_ND: Floats, components: int) -> tuple[Floats, Floats]:
    """(mean_D, basis_Dd): the directions of greatest variance, greatest first, in 2^20ths; signs settled for reruns."""
    sample = sample_ND.astype(np.float64)
    mean_D = sample.mean(axis=0)
    _, _, directions = np.linalg.svd(sample - mean_D, full_matrices=False)
    basis_Dd = directions[:components].T
    largest = basis_Dd[np.abs(basis_Dd).argmax(axis=0), np.arange(components)]
    basis_Dd = basis_Dd * np.where(largest < 0, -1.0, 1.0)
    rounded_Dd = np.ldexp(np.rint(np.ldexp(basis_Dd, _BASIS_BITS)), -_BASIS_BITS)
    return mean_D.astype(np.float32), np.ascontiguousarray(rounded_Dd, dtype=np.float32)


def _product(rows_NK: Floats, matrix_KM: Floats) -> Floats:
    """The product, each row's the same whatever stands beside it.

    BLAS adds up in another order at another place in the matrix, and a vector encoded in a publication must equal, byte
    for byte, the same vector encoded to check it. So the factors are whole numbers of so few bits that float64 holds
    every sum exactly, in which no order matters: 2^20ths of the basis, and as many bits of a row as are then left.
    """
    row_bits = _EXACT_BITS - _BASIS_BITS - math.ceil(math.log2(len(matrix_KM)))
    _, exponent_N = np.frexp(np.abs(rows_NK).max(axis=1, initial=0.0))
    unit_N1 = np.ldexp(1.0, exponent_N - row_bits)[:, None]
    whole_NK = np.rint(rows_NK / unit_N1)
    sums_NM = whole_NK @ np.ldexp(matrix_KM.astype(np.float64), _BASIS_BITS)
    return (sums_NM * np.ldexp(unit_N1, -_BASIS_BITS)).astype(np.float32)


def _scaled(stored_Nd: Floats) -> npt.NDArray[np.uint8]:
    """[N, 4 + d]: the scale that takes the largest number to 127, then the rounded numbers."""
    scale_N = (np.abs(stored_Nd).max(axis=1, initial=0.0) / _INT8_LIMIT).astype(np.float32)
    divisor_N = np.where(scale_N > 0, scale_N, 1.0)
    numbers = np.clip(np.rint(stored_Nd / divisor_N[:, None]), -_INT8_LIMIT, _INT8_LIMIT).astype(np.int8)
    payload_NB = np.empty((len(stored_Nd), _SCALE_BYTES + stored_Nd.shape[1]), dtype=np.uint8)
    payload_NB[:, :_SCALE_BYTES] = scale_N.astype("<f4")[:, None].view(np.uint8)
    payload_NB[:, _SCALE_BYTES:] = numbers.view(np.uint8)
    return payload_NB


def _halved(stored_Nd: Floats) -> npt.NDArray[np.float16]:
    largest = float(np.abs(stored_Nd).max(initial=0.0))
    if largest > float(np.finfo(np.float16).max):
        raise StageError(
            f"a vector holds a number of {largest:.3g}, beyond what float16 can hold; publish with"
            " --set publication.precision=int8 or float32"
        )
    return stored_Nd.astype(np.float16)
