"""Columns of ids, categories and attributes, made into rows of one shared embedding table or into dense numbers.

A field is what a CTR model embeds: user_id, item_id, the item's category, one per attribute of items and users, one
per context feature. Values are enumerated on the training split alone, or hashed where there are too many; the first
row of every field means unknown: never met in training, met too seldom, or missing. Attributes that are numbers become
quantile buckets, normalised numbers, or both.
"""

# Letters: V distinct values, E entities (items, users or examples), B a batch's examples.

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

NUM_BUCKETS = 20
"""Quantile buckets of a numeric attribute; one with no more distinct values than that stays categorical."""
NUMERIC_SHARE = 0.95
"""From this share of distinct values that read as numbers on, an attribute is numeric."""
NUMBER = r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$"
MIN_DEVIATION = 1e-12

Ints = npt.NDArray[np.int32]
Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Kind(StrEnum):
    """How a field's values find their rows."""

    VALUES = "values"
    BUCKETS = "buckets"
    HASHED = "hashed"


class Numbers(StrEnum):
    """What becomes of attributes that are numbers."""

    BUCKETS = "buckets"
    NORMALISED = "normalised"
    BOTH = "both"


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field: where its rows lie in the shared table and what they stand for."""

    name: str
    offset: int
    """Row of the shared table that means unknown; the field's other rows follow it."""
    values: pa.Array
    """The value of row offset+1, offset+2, …; of buckets the lower edge (−∞ for the first); of hashed fields none."""
    kind: Kind = Kind.VALUES
    hashed_rows: int = 0

    @property
    def size(self) -> int:
        """Rows in the shared table, the unknown row included."""
        return 1 + (self.hashed_rows or len(self.values))

    def rows_of(self, distinct: pa.Array) -> Ints:
        """The shared table's row of each value; null and unknown values have the field's first row."""
        match self.kind:
            case Kind.VALUES:
                code_V = 1 + pc.fill_null(pc.index_in(distinct, value_set=self.values), -1).to_numpy()
            case Kind.BUCKETS:
                numbers_V = as_numbers(distinct)
                edges = self.values[1:].cast(pa.float64()).to_numpy(zero_copy_only=False)
                code_V = np.where(np.isfinite(numbers_V), 1 + np.searchsorted(edges, numbers_V, side="right"), 0)
            case Kind.HASHED:
                code_V = np.array([_hashed_row(value, self.hashed_rows) for value in distinct.to_pylist()], np.int64)
        return (code_V + self.offset).astype(np.int32)


@dataclass(frozen=True, kw_only=True)
class Number:
    """A numeric attribute as one dense number with mean 0 and deviation 1 over the training examples."""

    name: str
    mean: float
    deviation: float

    def normalised(self, distinct: pa.Array) -> npt.NDArray[np.float32]:
        """Of each value; 0, the mean, where it is no number."""
        numbers_V = (as_numbers(distinct) - self.mean) / self.deviation
        return np.nan_to_num(numbers_V, nan=0.0, posinf=0.0, neginf=0.0).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Column:
    """What each entity has in one field."""

    name: str
    distinct: pa.Array
    """V strings."""
    index_E: Ints
    """Which of them an entity has; -1 for none."""
    is_id: bool = False
    """Ids are names even where they look like numbers, and keep their field even where all are unknown."""


@dataclass(frozen=True, kw_only=True)
class FieldRules:
    """How columns become fields."""

    min_count: int
    """Values with fewer training examples are unknown."""
    hashed_rows: int
    """0 enumerates; above, a field with more known values is hashed into so many rows."""
    numbers: Numbers


def string_column(name: str, values: pa.ChunkedArray, *, is_id: bool = False) -> Column:
    """A column of one string an entity."""
    encoded = values.combine_chunks().dictionary_encode()
    index_E = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int32)
    return Column(name=name, distinct=encoded.dictionary, index_E=index_E, is_id=is_id)


def attribute_columns(prefix: str, attributes: pa.ChunkedArray) -> Iterator[Column]:
    """One column per name that occurs in a column of name → value maps, in name order."""
    maps = attributes.combine_chunks()
    offsets = maps.offsets.to_numpy()
    entity_of_pair = np.repeat(np.arange(len(maps), dtype=np.int64), np.diff(offsets))
    pairs = slice(offsets[0], offsets[-1]) if len(maps) else slice(0, 0)
    names, values = maps.keys[pairs], maps.items[pairs]
    for name in sorted(pc.unique(names).to_pylist()):
        chosen = pc.equal(names, name)
        encoded = values.filter(chosen).dictionary_encode()
        index_E = np.full(len(maps), -1, dtype=np.int32)
        entities = entity_of_pair[chosen.to_numpy(zero_copy_only=False)]
        index_E[entities] = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
        yield Column(name=f"{prefix}.{name}", distinct=encoded.dictionary, index_E=index_E)


def make_field(
    name: str, distinct: pa.Array, counts_V: Rows, offset: int, rules: FieldRules, *, is_id: bool = False
) -> tuple[Field | None, Number | None]:
    """What a column becomes, from the values that training knows.

    Args:
        name: of the column.
        distinct: V values.
        counts_V: training examples of each.
        offset: first row of the field in the shared table.
        rules: of the dataset.
        is_id: as in Column.

    Returns:
        The field, None for a column that becomes a number alone or of which training knows no value; and the number,
        None where the column is not numeric or rules want buckets alone.
    """
    numbers_V = None if is_id else numeric_values(distinct)
    if numbers_V is not None and (counts_V > 0).any():
        number = None if rules.numbers is Numbers.BUCKETS else _number(name, numbers_V, counts_V)
        if rules.numbers is Numbers.NORMALISED:
            return None, number
        return Field(name=name, offset=offset, values=_edges(numbers_V, counts_V), kind=Kind.BUCKETS), number
    kept = np.flatnonzero(counts_V >= max(rules.min_count, 1))
    if rules.hashed_rows and len(kept) > rules.hashed_rows:
        empty = pa.array([], pa.string())
        return Field(name=name, offset=offset, values=empty, kind=Kind.HASHED, hashed_rows=rules.hashed_rows), None
    if not len(kept) and not is_id:
        return None, None
    return Field(name=name, offset=offset, values=distinct.take(pa.array(kept)).cast(pa.string())), None


def numeric_values(distinct: pa.Array) -> Floats | None:
    """The values as numbers, NaN where one is none; None where the column is not numeric."""
    if len(distinct) <= NUM_BUCKETS:
        return None
    is_number = pc.match_substring_regex(distinct, NUMBER)
    if pc.sum(is_number).as_py() < NUMERIC_SHARE * len(distinct):
        return None
    return as_numbers(distinct)


def as_numbers(distinct: pa.Array) -> Floats:
    """The values as numbers, NaN where one is none."""
    is_number = pc.match_substring_regex(distinct, NUMBER)
    trimmed = pc.utf8_trim_whitespace(pc.if_else(is_number, distinct, None))
    numbers: Floats = trimmed.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return numbers


def _edges(numbers_V: Floats, counts_V: Rows) -> pa.Array:
    """Lower edges of buckets of equal mass over the training examples, as texts that read back to the same numbers."""
    known = np.isfinite(numbers_V) & (counts_V > 0)
    order = np.argsort(numbers_V[known], kind="stable")
    sorted_V, mass_V = numbers_V[known][order], np.cumsum(counts_V[known][order])
    wanted = np.arange(1, NUM_BUCKETS) / NUM_BUCKETS * mass_V[-1] if len(mass_V) else np.array([])
    edges = np.unique(sorted_V[np.searchsorted(mass_V, wanted, side="right").clip(max=len(sorted_V) - 1)])
    return pa.array(["-inf", *(repr(float(edge)) for edge in edges)])


def _number(name: str, numbers_V: Floats, counts_V: Rows) -> Number:
    known = np.isfinite(numbers_V) & (counts_V > 0)
    mean = float(np.average(numbers_V[known], weights=counts_V[known])) if known.any() else 0.0
    variance = np.average((numbers_V[known] - mean) ** 2, weights=counts_V[known]) if known.any() else 0.0
    return Number(name=name, mean=mean, deviation=max(float(np.sqrt(variance)), MIN_DEVIATION))


def _hashed_row(value: str | None, rows: int) -> int:
    return 0 if value is None else 1 + zlib.crc32(value.encode()) % rows
