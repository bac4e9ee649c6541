"""The fields and numbers of a log's examples: fitted on the training split in one pass, then filled into records."""

# Letters: N examples of a batch, E entities (items or users), V distinct values, F fields, M numbers.

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from msd_models.ctr_inputs import SPLITS
from msd_models.fields import (
    Column,
    Field,
    FieldRules,
    Ints,
    Number,
    Numbers,
    Rows,
    attribute_columns,
    make_field,
    string_column,
)
from msd_models.record_files import Records
from msd_models.stable_sample import hashed_numbers
from pipeline.config import CtrRecords
from pipeline.storage import Dataset

CONTEXT = "context"


@dataclass(frozen=True, kw_only=True)
class _Entities:
    """Items or users: their ids and what is known of each, unknown ones last."""

    ids: pa.Array
    codes: dict[str, Ints]
    """Field → rows of the shared table by entity; one more for an entity that is not there."""
    numbers: dict[str, npt.NDArray[np.float32]]

    def of(self, ids: pa.ChunkedArray) -> Rows:
        """Place of each id; −1, which is the last entry, for nowhere."""
        found = pc.fill_null(pc.index_in(ids, value_set=self.ids), -1)
        return found.to_numpy(zero_copy_only=False).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class ExampleFields:
    """What records hold of ids, attributes and context."""

    fields: tuple[Field, ...]
    numbers: tuple[Number, ...]
    items: _Entities
    users: _Entities
    rows: dict[str, int]
    """Examples of each split."""
    clicks: dict[str, int]
    digests: dict[str, int] = field(default_factory=dict)

    @property
    def user_ids(self) -> pa.Array:
        """Of the users that records number."""
        return self.users.ids

    def fill(self, records: Records, table: pa.Table) -> None:
        """Sets codes, numbers, item and user of the records of a batch of examples."""
        item_N, user_N = self.items.of(table.column("item_id")), self.users.of(table.column("user_id"))
        contexts = {column.name: column for column in attribute_columns(CONTEXT, table.column("context"))}
        for position, one in enumerate(self.fields):
            records["codes"][:, position] = self._column(one, item_N, user_N, contexts, _codes_of)
        for position, number in enumerate(self.numbers):
            records["numbers"][:, position] = self._column(number, item_N, user_N, contexts, _numbers_of)
        records["item"], records["user"] = item_N + 1, user_N + 1

    def catalogue_codes(self) -> npt.NDArray[np.int32]:
        """Rows of the item_id and the category field by catalogue entry; entry 0 is unknown in both."""
        columns = [self.items.codes["item_id"], self.items.codes["category"]]
        return np.stack([np.append(column[-1:], column[:-1]) for column in columns], axis=1)

    def split_digest(self) -> str:
        """Of which events are in which split, whatever their order."""
        return "".join(f"{self.digests[split]:016x}" for split in SPLITS)

    def _column(
        self,
        one: Field | Number,
        item_N: Rows,
        user_N: Rows,
        contexts: dict[str, Column],
        convert: Callable[[Field | Number, Column], np.ndarray],
    ) -> np.ndarray:
        for entities, entity_N in ((self.items, item_N), (self.users, user_N)):
            known = entities.codes if isinstance(one, Field) else entities.numbers
            if one.name in known:
                return known[one.name][entity_N]
        column = contexts.get(one.name)
        if column is None:
            return np.full(len(item_N), one.offset if isinstance(one, Field) else 0)
        return convert(one, column)[column.index_E]


def fit_fields(batches: Iterable[pa.Table], items: Dataset, users: Dataset, config: CtrRecords) -> ExampleFields:
    """Counts what training knows and gives it rows.

    Args:
        batches: of examples; all splits.
        items: the catalogue.
        users: everyone who acted.
        config: max ids, hashing, numbers.
    """
    rules = FieldRules(min_count=config.min_id_count, hashed_rows=config.hashed_rows, numbers=Numbers(config.numbers))
    item_table, user_table = items.table(["item_id", "category", "attributes"]), users.table()
    counted = _count(batches, item_table.column("item_id"), user_table.column("user_id"))
    layout = _Layout(rules)
    user_id = string_column("user_id", user_table.column("user_id"), is_id=True)
    user_parts = layout.add(user_id, counted.user_E)
    item_columns = [
        string_column("item_id", item_table.column("item_id"), is_id=True),
        string_column("category", item_table.column("category"), is_id=True),
        *attribute_columns("item", item_table.column("attributes")),
    ]
    item_parts = _Parts.merged([layout.add(column, counted.item_E) for column in item_columns])
    profile = [layout.add(column, counted.user_E) for column in attribute_columns("user", user_table["attributes"])]
    user_parts = _Parts.merged([user_parts, *profile])
    for name, values in sorted(counted.contexts.items()):
        known = sorted(values)
        layout.make(name, pa.array(known, pa.string()), np.array([values[value] for value in known]), is_id=False)
    return ExampleFields(
        fields=tuple(layout.fields),
        numbers=tuple(layout.numbers),
        items=item_parts.entities(item_table.column("item_id")),
        users=user_parts.entities(user_table.column("user_id")),
        rows=counted.rows,
        clicks=counted.clicks,
        digests=counted.digests,
    )


@dataclass(kw_only=True)
class _Counted:
    """Of one pass over the examples."""

    item_E: Rows
    """Training examples of each item."""
    user_E: Rows
    contexts: dict[str, Counter[str]] = field(default_factory=dict)
    """Context feature → training examples of each value."""
    rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    clicks: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    digests: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))


def _count(batches: Iterable[pa.Table], item_ids: pa.ChunkedArray, user_ids: pa.ChunkedArray) -> _Counted:
    counted = _Counted(item_E=np.zeros(len(item_ids), np.int64), user_E=np.zeros(len(user_ids), np.int64))
    for table in batches:
        for split in SPLITS:
            chosen = table.filter(pc.equal(table.column("split"), split))
            counted.rows[split] += len(chosen)
            counted.clicks[split] += pc.sum(chosen.column("is_click")).as_py() or 0
            counted.digests[split] = (counted.digests[split] + _digest(chosen.column("event_id"))) % 2**64
        train = table.filter(pc.equal(table.column("split"), "train"))
        for counts_E, ids, known in (
            (counted.item_E, train.column("item_id"), item_ids),
            (counted.user_E, train.column("user_id"), user_ids),
        ):
            found = pc.index_in(ids, value_set=known).drop_null().to_numpy()
            counts_E += np.bincount(found, minlength=len(counts_E))
        for column in attribute_columns(CONTEXT, train.column("context")):
            counts_V = np.bincount(column.index_E[column.index_E >= 0], minlength=len(column.distinct))
            values = dict(zip(column.distinct.to_pylist(), counts_V.tolist(), strict=True))
            counted.contexts.setdefault(column.name, Counter()).update(values)
    return counted


@dataclass(kw_only=True)
class _Parts:
    """Codes and numbers of some columns by entity."""

    codes: dict[str, Ints] = field(default_factory=dict)
    numbers: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)

    @staticmethod
    def merged(parts: Sequence["_Parts"]) -> "_Parts":
        whole = _Parts()
        for part in parts:
            whole.codes |= part.codes
            whole.numbers |= part.numbers
        return whole

    def entities(self, ids: pa.ChunkedArray) -> _Entities:
        return _Entities(ids=ids.combine_chunks(), codes=self.codes, numbers=self.numbers)


class _Layout:
    """Gives fields their places in the shared table, one after the other."""

    def __init__(self, rules: FieldRules) -> None:
        self.rules = rules
        self.fields: list[Field] = []
        self.numbers: list[Number] = []
        self._offset = 0

    def add(self, column: Column, counts_E: Rows) -> _Parts:
        """A column of entities, with the training examples of each entity."""
        is_known_E = column.index_E >= 0
        weights = counts_E[is_known_E].astype(np.float64)
        counts_V = np.bincount(column.index_E[is_known_E], weights=weights, minlength=len(column.distinct))
        made, number = self.make(column.name, column.distinct, counts_V.astype(np.int64), is_id=column.is_id)
        parts = _Parts()
        if made is not None:
            parts.codes[column.name] = np.append(_codes_of(made, column)[column.index_E], np.int32(made.offset))
        if number is not None:
            parts.numbers[column.name] = np.append(_numbers_of(number, column)[column.index_E], np.float32(0))
        return parts

    def make(self, name: str, distinct: pa.Array, counts_V: Rows, *, is_id: bool) -> tuple[Field | None, Number | None]:
        made, number = make_field(name, distinct, counts_V, self._offset, self.rules, is_id=is_id)
        if made is not None:
            self.fields.append(made)
            self._offset += made.size
        if number is not None:
            self.numbers.append(number)
        return made, number


def _codes_of(one: Field | Number, column: Column) -> np.ndarray:
    """By value, and last for none."""
    assert isinstance(one, Field)
    return np.append(one.rows_of(column.distinct), np.int32(one.offset))


def _numbers_of(one: Field | Number, column: Column) -> np.ndarray:
    assert isinstance(one, Number)
    return np.append(one.normalised(column.distinct), np.float32(0))


def _digest(event_ids: pa.ChunkedArray) -> int:
    """The sum of each id's hash, so that the order does not matter."""
    return int(hashed_numbers(event_ids.to_numpy(), 0).sum(dtype=np.uint64))
