"""The labels a tuning draws, and every text they name as token ids, each text once.

Only what the drawn labels name is tokenised and stored, so that the cost follows the steps and not the log.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from msd_models.ctr_inputs import Batch, CtrInputs
from msd_models.record_files import RecordFile, Records
from msd_models.student_prompt import PromptIds
from msd_models.vector_texts import history_text
from pipeline.config import TunedStudent, Vectors
from pipeline.errors import StageError
from pipeline.storage import Dataset
from pipeline.texts import item_text

# B labels of a step, L history positions, R vector rows of a kind, U distinct texts

KINDS = ("items", "users", "contexts")
VALID_LABELS = 8192
"""Labels of the valid split that the steps are chosen by; all where there are fewer."""
BATCH_ROWS = 8192


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The labels of all steps, one after the other, and those the steps are chosen by."""

    train: Records
    valid: Records


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How texts become token ids: as the published vectors were made."""

    items: Vectors
    users: Vectors


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Distinct texts, and which of them each vector row stands for."""

    ids: list[list[int]]
    rows: Mapping[str, np.ndarray]
    """Kind → vector rows as records name them, ascending; 0 is not among them."""
    numbers: Mapping[str, np.ndarray]
    """Kind → the text of each of those rows."""

    def of(self, kind: str, rows_R: Tensor) -> Tensor:
        """The text of each row; every row must be one that was drawn."""
        place_R = np.searchsorted(self.rows[kind], rows_R.numpy())
        return torch.from_numpy(self.numbers[kind][place_R])


@dataclass(frozen=True, kw_only=True)
class LiveBatch:
    """A batch whose vector rows are 1 … R of its own distinct rows, and the texts those stand for."""

    batch: Batch
    texts_R: Mapping[str, Tensor]
    """Kind → text of row r+1."""


def draw(inputs: CtrInputs, config: TunedStudent) -> Drawn:
    """Draws max_steps × batch_size training labels, in passes over the split, and a sample of the valid ones."""
    count = config.max_steps * config.batch_size
    num_train, num_valid = inputs.num_rows("train"), inputs.num_rows("valid")
    generator = np.random.default_rng(config.seed)
    passes = [_some(num_train, min(num_train, count - first), generator) for first in range(0, count, num_train)]
    chosen = np.sort(_some(num_valid, min(num_valid, VALID_LABELS), generator))
    return Drawn(
        train=_records(inputs.records["train"], np.concatenate(passes)),
        valid=_records(inputs.records["valid"], chosen),
    )


def live_batch(inputs: CtrInputs, records_B: Records, history_items: int, texts: Texts) -> LiveBatch:
    """The labels with the rows of their own batch in place of the tables'."""
    batch = fewer_history_rows(inputs.batch(records_B), history_items)
    items_R, users_R, contexts_R = (_distinct(batch, kind) for kind in KINDS)
    compact = replace(
        batch,
        item_row_B=_place(items_R, batch.item_row_B),
        history_rows_BL=_place(items_R, batch.history_rows_BL),
        user_row_B=_place(users_R, batch.user_row_B),
        context_rows_BQ=_place(contexts_R, batch.context_rows_BQ),
    )
    distinct = dict(zip(KINDS, (items_R, users_R, contexts_R), strict=True))
    return LiveBatch(batch=compact, texts_R={kind: texts.of(kind, rows_R) for kind, rows_R in distinct.items()})


def fewer_history_rows(batch: Batch, history_items: int) -> Batch:
    """The batch with vectors for the latest liked items of each history only."""
    readable_BL = batch.is_liked_BL & (batch.history_rows_BL > 0)
    later_BL = readable_BL.flip(1).cumsum(1).flip(1)
    kept_BL = readable_BL & (later_BL <= history_items)
    return replace(batch, history_rows_BL=batch.history_rows_BL * kept_BL)


def read_texts(
    inputs: CtrInputs,
    drawn: Drawn,
    prompt: PromptIds,
    reading: Reading,
    history_items: int,
    datasets: Mapping[str, Dataset],
) -> Texts:
    """Every text the drawn labels name.

    Args:
        inputs: the opened records.
        drawn: the labels.
        prompt: the words around a text.
        reading: cuts and titles, as the published vectors were made.
        history_items: of each label's history.
        datasets: items, users, histories, context_texts, item_features and user_features.

    Raises:
        StageError: a row has no text: the records are of other features.
    """
    rows = _named_rows(inputs, drawn, history_items)
    makers = (_item_texts, _user_texts, _context_texts)
    found = {kind: make(rows[kind], datasets, reading) for kind, make in zip(KINDS, makers, strict=True)}
    number: dict[tuple[str, bool], int] = {}
    numbers = {}
    for kind, texts in found.items():
        missing = [row for row in rows[kind].tolist() if row not in texts]
        if missing:
            raise StageError(
                f"tuned_student: {len(missing):,} of {len(rows[kind]):,} {kind} that the records name have no text,"
                f" the first is vector row {missing[0] - 1}; make the records again: msd run ctr_records"
            )
        keys = [(texts[row], kind == "users") for row in rows[kind].tolist()]
        numbers[kind] = np.array([number.setdefault(key, len(number)) for key in keys], dtype=np.int64)
    ids = []
    for text, keep_end in number:
        limit = (reading.users if keep_end else reading.items).max_tokens
        ids.append(prompt.of(text, max_tokens=limit, keep_end=keep_end))
    return Texts(ids=ids, rows=rows, numbers=numbers)


def _some(count: int, wanted: int, generator: np.random.Generator) -> np.ndarray:
    return generator.choice(count, size=wanted, replace=False)


def _records(file: RecordFile, rows: np.ndarray) -> Records:
    """The named records in memory; only the pages they stand on are read."""
    mapped = np.memmap(file.path, dtype=file.dtype, mode="r", offset=file.data_start, shape=(file.num_rows,))
    return np.array(mapped[rows])


def _distinct(batch: Batch, kind: str) -> Tensor:
    """Distinct rows other than 0, ascending."""
    named = {
        "items": lambda: torch.cat([batch.item_row_B, batch.history_rows_BL.flatten()]),
        "users": lambda: batch.user_row_B,
        "contexts": lambda: batch.context_rows_BQ.flatten(),
    }[kind]()
    rows_R = torch.unique(named)
    return rows_R[rows_R > 0]


def _place(rows_R: Tensor, rows: Tensor) -> Tensor:
    """1 + the place of each row in rows_R; 0 stays 0."""
    return (torch.searchsorted(rows_R, rows) + 1) * (rows > 0)


def _named_rows(inputs: CtrInputs, drawn: Drawn, history_items: int) -> dict[str, np.ndarray]:
    found: dict[str, list[np.ndarray]] = {kind: [np.empty(0, dtype=np.int64)] for kind in KINDS}
    for records in (drawn.train, drawn.valid):
        for first in range(0, len(records), BATCH_ROWS):
            batch = fewer_history_rows(inputs.batch(records[first : first + BATCH_ROWS]), history_items)
            for kind in KINDS:
                found[kind].append(_distinct(batch, kind).numpy())
    return {kind: np.unique(np.concatenate(parts)) for kind, parts in found.items()}


def _item_texts(rows: np.ndarray, datasets: Mapping[str, Dataset], reading: Reading) -> dict[int, str]:
    row_of = {key["item_id"]: row for row, key in _keys(rows, datasets["item_features"], ["item_id"])}
    return {
        row_of[item["item_id"]]: item_text(item["text"], dict(item["attributes"] or ()))
        for item in _rows_with(datasets["items"], "item_id", list(row_of), ["item_id", "text", "attributes"])
    }


def _user_texts(rows: np.ndarray, datasets: Mapping[str, Dataset], reading: Reading) -> dict[int, str]:
    keys = _keys(rows, datasets["user_features"], ["user_id", "snapshot_at"])
    row_of = {(key["user_id"], key["snapshot_at"]): row for row, key in keys}
    users = sorted({user for user, _ in row_of})
    columns = ["user_id", "snapshot_at", "item_ids", "labels", "is_embedded"]
    shown = {
        row_of[history["user_id"], history["snapshot_at"]]: history
        for history in _rows_with(datasets["histories"], "user_id", users, columns)
        if history["is_embedded"] and (history["user_id"], history["snapshot_at"]) in row_of
    }
    wanted = {item for history in shown.values() for item in history["item_ids"]}
    titles = {
        item["item_id"]: item["title"]
        for item in _rows_with(datasets["items"], "item_id", sorted(wanted), ["item_id", "title"])
    }
    profiles = {
        user["user_id"]: dict(user["attributes"] or ())
        for user in _rows_with(datasets["users"], "user_id", users, ["user_id", "attributes"])
    }
    num_titles = reading.users.history_titles
    return {row: history_text(history, titles, profiles, num_titles) for row, history in shown.items()}


def _context_texts(rows: np.ndarray, datasets: Mapping[str, Dataset], reading: Reading) -> dict[int, str]:
    texts: dict[int, str] = {}
    first = 1
    for batch in datasets["context_texts"].batches(BATCH_ROWS) if len(rows) else ():
        own = rows[(rows >= first) & (rows < first + batch.num_rows)]
        found = batch.column("text").take(pa.array(own - first)).to_pylist()
        texts.update(zip(own.tolist(), found, strict=True))
        first += batch.num_rows
    return texts


def _keys(rows: np.ndarray, features: Dataset, columns: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row as records name it, what it stands for) of the named rows."""
    named = pq.read_table(features.folder / "rows.parquet", columns=["vector_row", *columns])
    named = named.filter(pc.is_in(named.column("vector_row"), pa.array(rows - 1)))
    for key in named.to_pylist():
        yield key["vector_row"] + 1, key


def _rows_with(dataset: Dataset, name: str, wanted: Sequence[str], columns: list[str]) -> Iterator[dict[str, Any]]:
    values = pa.array(wanted, pa.string())
    for batch in dataset.batches(BATCH_ROWS):
        yield from batch.filter(pc.is_in(batch.column(name), values)).select(columns).to_pylist()
