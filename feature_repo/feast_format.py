"""Feast's online format in Redis (0.67, entity key serialisation 3), laid out by hand and tested against Feast's own.

Key: number of join keys, then per key its type, length and name, then the value's type, length and bytes, all counts as
little-endian uint32; then the project's name. The key's hash has a field per feature, named by four bytes: murmur3 of
`view:feature`, little-endian; its value is a serialised `feast.types.Value`, empty for null. `_ts:view` holds the event
time as a `google.protobuf.Timestamp`. Feast takes NaN in a scalar for null, and so does this.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.definitions import ViewPlan
from feature_repo.row_bytes import ABSENT, Matrix, Piece, Segment, Strings, strings, varint, varints
from feature_repo.vector_codec import Encoded
from pipeline import schemas

_STRING = 2
_MICROSECONDS = 1_000_000
_LIST = b"\x82\x01"
_HEADS = {"string": b"\x12", "bytes": b"\x0a", "int32": b"\x18", "int64": b"\x20", "time": b"\x40"}
_FIXED_HEADS = {pa.float64(): b"\x29", pa.float32(): b"\x35"}


@dataclass(frozen=True, eq=False)
class Column:
    """One hash field of every row."""

    field: bytes
    pieces: tuple[Piece, ...]

    def value(self, lengths: Iterator[int]) -> list[Segment]:
        """What the field holds in rows whose stretches have the lengths that come next."""
        return [segment for piece in self.pieces for segment in piece.segments(next(lengths))]


def redis_keys(key_name: str, ids: Sequence[str], project: str) -> list[bytes]:
    """The Redis keys of some entities.

    Args:
        key_name: item_id or user_id.
        ids: of the entities.
        project: Feast's project.
    """
    head, tail = key_head(key_name), project.encode()
    encoded = [each.encode() for each in ids]
    return [b"".join((head, struct.pack("<I", len(each)), each, tail)) for each in encoded]


def key_head(key_name: str) -> bytes:
    """What every key of an entity begins with, up to the length of the id."""
    name = key_name.encode()
    return struct.pack("<III", 1, _STRING, len(name)) + name + struct.pack("<I", _STRING)


def key_piece(key_name: str, ids: pa.Array) -> Piece:
    """The keys of a column of ids, without the project that ends them."""
    assert not ids.null_count, "an entity has an id"
    head = key_head(key_name)
    lengths_N, source = strings(ids)
    return Piece(lengths_N, source, lambda length: head + struct.pack("<I", length))


def field_name(view: str, feature: str) -> bytes:
    """The hash field of a feature."""
    import mmh3

    return struct.pack("<I", mmh3.hash(f"{view}:{feature}", signed=False))


def time_field(view: str) -> bytes:
    """The hash field of a view's event time."""
    return f"_ts:{view}".encode()


def field_names(plan: ViewPlan) -> list[bytes]:
    """All hash fields of a view, in the order Feast writes them."""
    return [time_field(plan.name), *(field_name(plan.name, field.name) for field in plan.features)]


def columns(plan: ViewPlan, rows: pa.Table, encoded: Encoded | None) -> list[Column]:
    """The hash fields of a view, in the order of field_names.

    Args:
        plan: the view.
        rows: its features and event_timestamp.
        encoded: the feature `vector`, where rows does not hold it.
    """
    made = [Column(time_field(plan.name), _timestamp(_whole(rows, "event_timestamp")))]
    for field in plan.features:
        if field.name == "vector" and encoded is not None:
            pieces = (_vector(encoded),)
        else:
            pieces = (_value(_whole(rows, field.name)),)
        made.append(Column(field_name(plan.name, field.name), pieces))
    return made


def read_value(stored: bytes | None, kind: pa.DataType) -> Any:
    """What a field's value stands for; a vector, in whichever precision, as its bytes.

    Args:
        stored: the field's content, which says what it is; None or empty for null.
        kind: Arrow type of the feature, for whole numbers that are times.
    """
    if not stored:
        return None
    head = stored[:1]
    if stored.startswith(_LIST):
        outer_end = _varint_end(stored, len(_LIST))
        return stored[_varint_end(stored, outer_end + 1) :] if outer_end < len(stored) else b""
    if head in (_HEADS["string"], _HEADS["bytes"]):
        content = stored[_varint_end(stored, 1) :]
        return content.decode() if head == _HEADS["string"] else content
    if head in _FIXED_HEADS.values():
        return struct.unpack("<d" if head == _FIXED_HEADS[pa.float64()] else "<f", stored[1:])[0]
    number = _signed(stored[1:])
    return number * _MICROSECONDS if pa.types.is_timestamp(kind) else number


def read_time(stored: bytes | None) -> int | None:
    """Microseconds since 1970 of a stored event time; None where there is none."""
    if stored is None:
        return None
    parts = {0x08: 0, 0x10: 0}
    start = 0
    while start < len(stored):
        end = _varint_end(stored, start + 1)
        parts[stored[start]] = _signed(stored[start + 1 : end])
        start = end
    return parts[0x08] * _MICROSECONDS + parts[0x10] // 1000


def _whole(rows: pa.Table, name: str) -> pa.Array:
    return rows.column(name).combine_chunks()


def _value(column: pa.Array) -> Piece:
    kind = column.type
    if pa.types.is_list(kind):
        return _floats(column)
    if kind in _FIXED_HEADS:
        return _fixed(column)
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        lengths_N, source = strings(column)
        head = _HEADS["string" if pa.types.is_string(kind) else "bytes"]
        return Piece(lengths_N, source, lambda length: head + varint(length))
    if pa.types.is_timestamp(kind):
        seconds = pc.cast(column, schemas.TIME).cast(pa.int64()).fill_null(0).to_numpy() // _MICROSECONDS
        return _numbers(seconds, column, "time")
    name = "int64" if kind == pa.int64() else "int32"
    return _numbers(column.cast(pa.int64()).fill_null(0).to_numpy(), column, name)


def _numbers(numbers_N: npt.NDArray[np.int64], column: pa.Array, name: str) -> Piece:
    lengths_N, source = varints(numbers_N)
    if column.null_count:
        lengths_N = np.where(_is_null(column), ABSENT, lengths_N)
    return Piece(lengths_N, source, lambda _: _HEADS[name])


def _fixed(column: pa.Array) -> Piece:
    numbers_N = column.fill_null(float("nan")).to_numpy()
    size = numbers_N.itemsize
    bytes_NB = np.ascontiguousarray(numbers_N, dtype=numbers_N.dtype.newbyteorder("<")).view(np.uint8).reshape(-1, size)
    lengths_N = np.where(np.isnan(numbers_N), ABSENT, size)
    return Piece(lengths_N, Matrix(bytes_NB), lambda _: _FIXED_HEADS[column.type])


def _floats(column: pa.Array) -> Piece:
    """Lists of float32, of any lengths."""
    numbers = np.ascontiguousarray(column.flatten().to_numpy(zero_copy_only=False), dtype="<f4")
    lengths_N = pc.list_value_length(column).fill_null(0).to_numpy().astype(np.int64) * numbers.itemsize
    starts_N = np.cumsum(lengths_N) - lengths_N
    if column.null_count:
        lengths_N = np.where(_is_null(column), ABSENT, lengths_N)
    return Piece(lengths_N, Strings(numbers.view(np.uint8), starts_N), _list_head)


def _vector(encoded: Encoded) -> Piece:
    count, size = encoded.payload_NB.shape
    lengths_N = np.full(count, size, dtype=np.int64)
    head = _list_head if encoded.is_array else _bytes_head
    return Piece(lengths_N, Matrix(encoded.payload_NB), head)


def _list_head(length: int) -> bytes:
    packed = b"\x0a" + varint(length) if length else b""
    return _LIST + varint(len(packed) + length) + packed


def _bytes_head(length: int) -> bytes:
    return _HEADS["bytes"] + varint(length)


def vector_head(*, is_array: bool, num_bytes: int) -> bytes:
    """What stands before a stored vector's bytes."""
    return _list_head(num_bytes) if is_array else _bytes_head(num_bytes)


def _timestamp(column: pa.Array) -> tuple[Piece, Piece]:
    """Seconds and nanoseconds; protobuf leaves out what is zero."""
    assert not column.null_count, "what is published was available at some time"
    micros_N = pc.cast(column, schemas.TIME).cast(pa.int64()).to_numpy()
    seconds_N, rest_N = np.divmod(micros_N, _MICROSECONDS)
    return _unless_zero(seconds_N, b"\x08"), _unless_zero(rest_N * 1000, b"\x10")


def _unless_zero(numbers_N: npt.NDArray[np.int64], head: bytes) -> Piece:
    lengths_N, source = varints(numbers_N)
    return Piece(np.where(numbers_N == 0, ABSENT, lengths_N), source, lambda _: head)


def _is_null(column: pa.Array) -> npt.NDArray[np.bool_]:
    return column.is_null().to_numpy(zero_copy_only=False)


def _varint_end(stored: bytes, start: int) -> int:
    while stored[start] & 0x80:
        start += 1
    return start + 1


def _signed(digits: bytes) -> int:
    number = sum((digit & 0x7F) << 7 * position for position, digit in enumerate(digits))
    return number - (1 << 64) if number >> 63 else number
