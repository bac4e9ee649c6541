"""Columns of ids, categories and attributes, made into codes of one shared embedding table.

A field is what a CTR model embeds: user_id, item_id, the item's category, one per attribute of items and users, one
per context feature. Values are enumerated on the training split alone; the first row of every field means unknown:
never met in training, met too seldom, or missing. Attributes that are numbers with many values become quantile buckets.
"""

# Letters: N examples, E entities (items, users or examples), V distinct values.

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

NUM_BUCKETS = 20
"""Quantile buckets of a numeric attribute; one with no more distinct values than that stays categorical."""
NUMERIC_SHARE = 0.95
"""From this share of distinct values that read as numbers on, an attribute is numeric."""
NUMBER = r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$"

Ints = npt.NDArray[np.int32]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field: where its rows lie in the shared table and what they stand for."""

    name: str
    offset: int
    """Row of the shared table that means unknown; the field's other rows follow it."""
    values: pa.Array
    """The value of row offset+1, offset+2, …; for a numeric field the lower edge of its bucket (−∞ for the first)."""

    @property
    def size(self) -> int:
        """Rows in the shared table, the unknown row included."""
        return 1 + len(self.values)


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


def enumerate_field(column: Column, entity_of_train: Rows, offset: int, min_count: int) -> tuple[Field, Ints] | None:
    """Gives the values that training knows rows of the shared table.

    Args:
        column: the field's values by entity.
        entity_of_train: the entity of each training example; -1 for none.
        offset: first row of the field in the shared table.
        min_count: values with fewer training examples are unknown.

    Returns:
        The field and each entity's row in the shared table; None for an attribute of which training knows no value.
    """
    met = column.index_E[entity_of_train[entity_of_train >= 0]]
    counts_V = np.bincount(met[met >= 0], minlength=len(column.distinct))
    numbers_V = None if column.is_id else _numbers(column.distinct)
    if numbers_V is not None and (counts_V > 0).any():
        values, code_V = _buckets(numbers_V, counts_V)
    else:
        kept = np.flatnonzero(counts_V >= max(min_count, 1))
        values, code_V = column.distinct.take(pa.array(kept)), np.zeros(len(column.distinct), dtype=np.int32)
        code_V[kept] = np.arange(1, len(kept) + 1)
    if not len(values) and not column.is_id:
        return None
    codes_E = np.append(code_V, 0)[column.index_E].astype(np.int32)
    return Field(name=column.name, offset=offset, values=values), codes_E + np.int32(offset)


def _numbers(distinct: pa.Array) -> npt.NDArray[np.float64] | None:
    """The values as numbers, NaN where one is none; None where the column is not numeric."""
    if len(distinct) <= NUM_BUCKETS:
        return None
    is_number = pc.match_substring_regex(distinct, NUMBER)
    if pc.sum(is_number).as_py() < NUMERIC_SHARE * len(distinct):
        return None
    trimmed = pc.utf8_trim_whitespace(pc.if_else(is_number, distinct, None))
    return trimmed.cast(pa.float64()).to_numpy(zero_copy_only=False)


def _buckets(numbers_V: npt.NDArray[np.float64], counts_V: Rows) -> tuple[pa.Array, Ints]:
    known = np.isfinite(numbers_V)
    in_training = np.repeat(numbers_V[known], counts_V[known])
    inner = np.quantile(in_training, np.arange(1, NUM_BUCKETS) / NUM_BUCKETS) if len(in_training) else np.array([])
    edges = np.unique(inner)
    code_V = np.where(known, 1 + np.searchsorted(edges, numbers_V, side="right"), 0).astype(np.int32)
    return pa.array(["-inf", *(repr(float(edge)) for edge in edges)]), code_V
