"""Rows written as matrices of bytes are the rows written one by one."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.row_bytes import ABSENT, Matrix, Piece, Shape, same_shape, strings, varint, varints

INT64 = st.integers(min_value=-(2**63), max_value=2**63 - 1)


def taken(source, rows, length: int) -> list[bytes]:
    return [stretch.tobytes() for stretch in source.take(rows, length)] if length else [b""] * len(rows)


def plain_varint(number: int) -> bytes:
    number &= 2**64 - 1
    made = bytearray()
    while number > 127:
        made.append(number % 128 + 128)
        number //= 128
    return bytes([*made, number])


@given(st.lists(INT64, min_size=1))
def test_varints_are_protobufs(numbers: list[int]):
    lengths_N, source = varints(np.array(numbers, dtype=np.int64))
    for row, number in enumerate(numbers):
        assert taken(source, np.array([row]), int(lengths_N[row])) == [plain_varint(number)]
        assert number < 0 or varint(number) == plain_varint(number)


@given(st.lists(st.one_of(st.none(), st.text())), st.integers(0, 3), st.integers(0, 3))
def test_strings_are_found_in_any_slice_of_a_column(texts: list[str | None], before: int, after: int):
    column = pa.array([*(["x"] * before), *texts, *(["y"] * after)], pa.string()).slice(before, len(texts))
    lengths_N, source = strings(column)
    assert len(lengths_N) == len(texts)
    for row, text in enumerate(texts):
        if text is None:
            assert lengths_N[row] == ABSENT
        else:
            assert taken(source, np.array([row]), int(lengths_N[row])) == [text.encode()]


@given(
    st.integers(1, 4).flatmap(
        lambda width: st.lists(st.tuples(*[st.integers(-1, 400)] * width), min_size=1, max_size=60)
    )
)
def test_shapes_part_the_rows(rows: list[tuple[int, ...]]):
    lengths = [np.array(column, dtype=np.int64) for column in zip(*rows, strict=True)]
    seen: list[int] = []
    shapes = []
    for numbers, shape in same_shape(lengths):
        here = np.arange(len(rows))[numbers].tolist()
        assert {rows[row] for row in here} == {shape}
        seen += here
        shapes.append(shape)
    assert sorted(seen) == list(range(len(rows)))
    assert len(shapes) == len(set(rows))


def test_no_rows_have_no_shape():
    assert list(same_shape([np.zeros(0, dtype=np.int64)])) == []


@given(st.integers(1, 3000), st.integers(1, 700), st.booleans())
def test_chunks_hold_each_row_once(count: int, width: int, is_sliced: bool):
    values = np.random.default_rng(count).integers(0, 256, (count, width + 3), dtype=np.uint8)[:, :width]
    piece = Piece(np.full(count, width), Matrix(values), lambda _: b"<")
    shape = Shape([b"[", *piece.segments(width), b">", b"]"])
    rows = slice(0, count) if is_sliced else np.arange(count)[::-1]
    written = b"".join(shape.fill(chunk).tobytes() for chunk in shape.chunks(rows))
    order = range(count) if is_sliced else reversed(range(count))
    assert written == b"".join(b"[<" + values[row].tobytes() + b">]" for row in order)
