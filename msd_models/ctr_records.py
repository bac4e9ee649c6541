"""ctr_records: the examples as fixed-width records, so that a training is a stream of them and joins nothing.

Two passes over the examples, a few hundred thousand rows in memory at a time. The first counts what training knows, so
that ids and values get their rows; the second writes one record an example into the file of its split. Histories are
laid out in the record: of the user's latest events, the item, whether it was liked, and how long ago it was.
"""

# Letters: N examples of a batch, E entities, C catalogue entries, L history positions, F fields.

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from msd_models.context_rows import ContextRows
from msd_models.ctr_inputs import NUM_GAPS, SPLITS, CtrInputs
from msd_models.example_fields import ExampleFields, fit_fields
from msd_models.fields import Field, Kind, Numbers, Rows
from msd_models.history_file import MICROSECONDS_PER_MINUTE, HistoryFile, lay_out_histories
from msd_models.record_files import Records, RecordWriter, open_records, record_type
from pipeline.config import CtrRecords
from pipeline.errors import ConfigError, StageError
from pipeline.progress import Advance, progress
from pipeline.source import Source
from pipeline.storage import Dataset, Outcome, write_atomically, write_shard

BATCH_ROWS = 131_072
SAMPLED_ROWS = 100_000
"""Vector rows kept for means and deviations; more change the third digit at most."""
MINUTES_PER_HOUR = 60


@dataclass(frozen=True, kw_only=True)
class Tables:
    """What records are made from."""

    examples: Dataset
    histories: Dataset
    items: Dataset
    users: Dataset
    item_stats: Dataset
    context_texts: Dataset
    item_features: Dataset | None = None
    user_features: Dataset | None = None
    """Both None where no arm reads vectors."""


def write_records(config: CtrRecords, folder: Path, source: Source, **datasets: Dataset) -> Outcome:
    """Writes `<split>.npy`, what their numbers stand for, and the entities' ids.

    Args:
        config: of the stage.
        folder: of the dataset.
        source: its text_context names the event's texts.
        datasets: those of Tables, committed.

    Raises:
        ConfigError: a setting is out of its range.
        StageError: the training, valid or test split is empty or has one class only.
    """
    _check(config)
    tables = Tables(**datasets)
    contexts = tuple(source.events.text_context)
    total = tables.examples.num_rows()
    with progress("ctr_records", 2 * total) as advance:
        fields = fit_fields(_batches(tables, advance), tables.items, tables.users, config)
        _check_splits(fields)
        catalogue = _Catalogue(tables, fields)
        histories = lay_out_histories(
            folder / "histories.tmp", tables.histories, catalogue.item_ids, catalogue.seen_at_C, config.max_history
        )
        seen = _write_splits(folder, tables, fields, catalogue, histories, contexts, advance)
    (folder / "histories.tmp").unlink()
    _write_inputs(folder, fields, catalogue, seen, contexts, config)
    return Outcome(rows_in=total, rows_ok=total, details=_details(folder, fields))


def open_inputs(folder: Path) -> CtrInputs:
    """What write_records left in the folder."""
    from safetensors.torch import load_file

    told = json.loads((folder / "inputs.json").read_text(encoding="utf-8"))
    values = pq.read_table(folder / "fields.parquet")
    tensors = load_file(folder / "catalogue.safetensors")
    return CtrInputs(
        folder=folder,
        fields=tuple(_field(facts, values) for facts in told["fields"]),
        number_names=tuple(told["numbers"]),
        context_names=tuple(told["contexts"]),
        max_history=told["max_history"],
        catalogue_codes_C2=tensors["codes"],
        exposures_C=tensors["exposures"],
        vector_row_C=tensors["vector_row"],
        sampled_rows={level: tensors[f"sampled_{level}"].numpy() for level in ("items", "users", "contexts")},
        records={split: open_records(folder / f"{split}.npy") for split in SPLITS},
    )


class _Catalogue:
    """The items as the records know them: entry 0 is none, entry r+1 the r-th row of items."""

    def __init__(self, tables: Tables, fields: ExampleFields) -> None:
        items = tables.items.table(["item_id", "category"])
        self.item_ids = items.column("item_id").combine_chunks()
        self.categories = items.column("category").combine_chunks()
        stats = tables.item_stats.table(["item_id", "exposures", "first_seen_at"])
        place_C = positions(self.item_ids, stats.column("item_id"))
        exposures = np.append(stats.column("exposures").to_numpy(), 0)[place_C]
        seen_at = np.append(stats.column("first_seen_at").cast("int64").to_numpy(), 0)[place_C]
        self.exposures_C = np.append(0, exposures).astype(np.float32)
        self.seen_at_C = np.append(0, seen_at)
        self.vector_row_C = np.append(0, self._vector_rows(tables.item_features))
        self.codes_C2 = fields.catalogue_codes()

    def _vector_rows(self, item_features: Dataset | None) -> Rows:
        if item_features is None:
            return np.zeros(len(self.item_ids), dtype=np.int64)
        published = pq.read_table(item_features.folder / "rows.parquet", columns=["vector_row", "item_id"])
        found_C = positions(self.item_ids, published.column("item_id"))
        rows: Rows = np.append(published.column("vector_row").to_numpy(), -1)[found_C] + 1
        return rows


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """Vector rows that training examples name, as flags by row; row 0 is none."""

    items: np.ndarray
    users: np.ndarray
    contexts: np.ndarray

    def sampled(self, level: str) -> Rows:
        rows = np.flatnonzero(getattr(self, level)[1:]) + 1
        return rows[:: max(1, -(-len(rows) // SAMPLED_ROWS))]


def positions(values: pa.Array | pa.ChunkedArray, known: pa.Array | pa.ChunkedArray) -> Rows:
    """Where each value stands among the known ones; -1 for nowhere."""
    found = pc.index_in(values, value_set=known)
    return pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64)


def _check(config: CtrRecords) -> None:
    problems = [
        (config.max_history < 1, "max_history", f"is {config.max_history}; choose 1 or more"),
        (config.hashed_rows < 0, "hashed_rows", f"is {config.hashed_rows}; choose 0 to enumerate, or rows of a field"),
        (config.numbers not in list(Numbers), "numbers", f"is '{config.numbers}'; choose {', '.join(Numbers)}"),
    ]
    for is_wrong, name, sentence in problems:
        if is_wrong:
            raise ConfigError(f"[ctr_records] {name} {sentence}; for instance --set ctr_records.{name}=…")


def _batches(tables: Tables, advance: Advance) -> Iterator[pa.Table]:
    for batch in tables.examples.batches(BATCH_ROWS):
        yield pa.Table.from_batches([batch])
        advance(len(batch))


def _check_splits(fields: ExampleFields) -> None:
    """An AUC needs both classes on each side."""
    counts = ", ".join(f"{split} {fields.rows[split]:,}" for split in SPLITS)
    for split in SPLITS:
        rows, clicks = fields.rows[split], fields.clicks[split]
        if clicks in (0, rows):
            raise StageError(
                f"ctr_records: the {split} split has {clicks:,} clicks among its {rows:,} rows (examples: {counts}),"
                " and both clicks and impressions without one are wanted there; change label, [labels] split or"
                " negatives in the source, then run: msd run ctr_records --source FILE.toml"
            )


def _write_splits(
    folder: Path,
    tables: Tables,
    fields: ExampleFields,
    catalogue: _Catalogue,
    histories: HistoryFile,
    contexts: tuple[str, ...],
    advance: Advance,
) -> _Seen:
    dtype = record_type(len(fields.fields), len(fields.numbers), histories.max_history, len(contexts))
    texts = ContextRows(tables.context_texts, contexts)
    users = tables.user_features
    num_users = pq.ParquetFile(users.folder / "rows.parquet").metadata.num_rows if users is not None else 0
    seen = _Seen(
        items=np.zeros(int(catalogue.vector_row_C.max(initial=0)) + 1, dtype=np.bool_),
        users=np.zeros(num_users + 1, dtype=np.bool_),
        contexts=np.zeros(texts.num_rows + 1, dtype=np.bool_),
    )
    with ExitStack() as stack:
        writers = {split: RecordWriter(folder / f"{split}.npy", dtype) for split in SPLITS}
        for writer in writers.values():
            stack.callback(writer.close)
        for table in _batches(tables, advance):
            records = np.zeros(len(table), dtype=dtype)
            fields.fill(records, table)
            records["context_rows"] = texts.of(table.column("context"))
            records["item_row"] = _vector_rows(table.column("item_vector_row"))
            records["user_row"] = _vector_rows(table.column("user_vector_row"))
            records["event_id"] = table.column("event_id").to_numpy()
            records["click"] = table.column("is_click").to_numpy()
            _fill_histories(records, table, histories)
            for split, writer in writers.items():
                chosen = records[pc.equal(table.column("split"), split).to_numpy()]
                writer.write(chosen)
                if split == "train":
                    seen.items[chosen["item_row"]] = True
                    seen.users[chosen["user_row"]] = True
                    seen.contexts[chosen["context_rows"].ravel()] = True
    return seen


def _fill_histories(records: Records, table: pa.Table, histories: HistoryFile) -> None:
    """History, flags and gaps of each example, from the row of histories it names."""
    laid_N = histories.read(pc.fill_null(table.column("history_row"), -1).to_numpy())
    records["history"], records["flags"] = laid_N["history"], laid_N["flags"]
    minute_N = table.column("event_at").cast("int64").to_numpy() // MICROSECONDS_PER_MINUTE
    hours_NL = np.maximum(minute_N[:, None] - laid_N["minutes"], 0) // MINUTES_PER_HOUR
    steps_NL = 1 + np.log2(1 + hours_NL).astype(np.int64)
    records["gaps"] = np.where(laid_N["history"] > 0, np.minimum(steps_NL, NUM_GAPS - 1), 0)


def _vector_rows(rows: pa.ChunkedArray) -> Rows:
    return pc.fill_null(rows, -1).to_numpy() + 1


def _write_inputs(
    folder: Path,
    fields: ExampleFields,
    catalogue: _Catalogue,
    seen: _Seen,
    contexts: tuple[str, ...],
    config: CtrRecords,
) -> None:
    from safetensors.torch import save

    tensors = {
        "codes": torch.from_numpy(catalogue.codes_C2.astype(np.int64)),
        "exposures": torch.from_numpy(catalogue.exposures_C),
        "vector_row": torch.from_numpy(catalogue.vector_row_C.astype(np.int64)),
        **{f"sampled_{level}": torch.from_numpy(seen.sampled(level)) for level in ("items", "users", "contexts")},
    }
    write_atomically(folder / "catalogue.safetensors", save(tensors))
    write_shard(folder / "fields.parquet", _fields_table(fields.fields))
    ids = {"item_id": catalogue.item_ids, "category": catalogue.categories}
    ids["exposures"] = pa.array(catalogue.exposures_C[1:].astype(np.int64))
    write_shard(folder / "items.parquet", pa.table(ids))
    write_shard(folder / "users.parquet", pa.table({"user_id": fields.user_ids}))
    facts = [
        {"name": field.name, "offset": field.offset, "kind": field.kind, "hashed_rows": field.hashed_rows}
        for field in fields.fields
    ]
    told = {
        "fields": facts,
        "numbers": [number.name for number in fields.numbers],
        "contexts": list(contexts),
        "max_history": config.max_history,
    }
    write_atomically(folder / "inputs.json", json.dumps(told, indent=1).encode())


def _fields_table(fields: tuple[Field, ...]) -> pa.Table:
    """What each row of the embedding table stands for; the first of a field, and hashed ones, for no one value."""
    tables = []
    for field in fields:
        named = field.values if field.kind is not Kind.HASHED else pa.nulls(field.hashed_rows, pa.string())
        values = pa.concat_arrays([pa.nulls(1, pa.string()), named])
        names = pa.array([field.name]).take(pa.array(np.zeros(len(values), dtype=np.int64)))
        tables.append(pa.table({"field": names, "row": field.offset + np.arange(len(values)), "value": values}))
    return pa.concat_tables(tables)


def _field(facts: dict[str, object], values: pa.Table) -> Field:
    own = values.filter(pc.equal(values.column("field"), facts["name"])).column("value").combine_chunks()
    kind = Kind(str(facts["kind"]))
    return Field(
        name=str(facts["name"]),
        offset=int(str(facts["offset"])),
        kind=kind,
        hashed_rows=int(str(facts["hashed_rows"])),
        values=pa.array([], pa.string()) if kind is Kind.HASHED else own[1:],
    )


def _details(folder: Path, fields: ExampleFields) -> dict[str, object]:
    return {
        "split": dict(fields.rows),
        "clicks": dict(fields.clicks),
        "split_digest": fields.split_digest(),
        "fields": {field.name: field.size for field in fields.fields},
        "numbers": [number.name for number in fields.numbers],
        "bytes_per_row": open_records(folder / "train.npy").dtype.itemsize,
    }
