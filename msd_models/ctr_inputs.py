"""Everything the CTR models read, as compact tensors made once: from examples, histories and the tables beside them.

Ids become codes, histories become one padded table of catalogue numbers, vectors stay where they are and are named by
row. 100,000 examples take some 20 MB, and a batch is a few index operations.
"""

# Letters: N examples, B of them in a batch, F fields, S distinct histories, L history positions, C catalogue entries.
# Catalogue entry 0 is padding; vector row 0 means that there is none, row r+1 is row r of the published table.

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from msd_models.fields import Column, Field, attribute_columns, enumerate_field, string_column
from pipeline.errors import StageError
from pipeline.storage import Dataset

SPLITS = ("train", "valid", "test")
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some examples, gathered."""

    codes_BF: Tensor
    """Row of each field in the shared embedding table."""
    history_BL: Tensor
    """Catalogue entries, 0 where there is none; the order says nothing."""
    is_liked_BL: Tensor
    """True where the event of the history was positive."""
    history_rows_BL: Tensor
    """Vector rows of the history's items, 0 for none."""
    item_row_B: Tensor
    user_row_B: Tensor
    click_B: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        return Batch(**{name: tensor.to(device) for name, tensor in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class CtrInputs:
    """All examples."""

    fields: tuple[Field, ...]
    codes_NF: Tensor
    history_row_N: Tensor
    """Row of the history tables; row 0 is the empty history."""
    history_SL: Tensor
    is_liked_SL: Tensor
    history_rows_SL: Tensor
    item_row_N: Tensor
    user_row_N: Tensor
    click_N: Tensor
    split_rows: dict[str, Tensor]
    """Split → its examples."""
    catalogue_codes_C2: Tensor
    """Rows of the item_id field and of the category field of each catalogue entry."""
    exposures_C: Tensor
    """f: exposures in the training window."""
    event_id_N: Rows
    user_id_N: pa.Array
    item_id_N: pa.Array

    @property
    def num_codes(self) -> int:
        """Rows of the shared embedding table."""
        return sum(field.size for field in self.fields)

    def batch(self, rows_B: Tensor) -> Batch:
        """The named examples."""
        history_B = self.history_row_N[rows_B]
        return Batch(
            codes_BF=self.codes_NF[rows_B],
            history_BL=self.history_SL[history_B],
            is_liked_BL=self.is_liked_SL[history_B],
            history_rows_BL=self.history_rows_SL[history_B],
            item_row_B=self.item_row_N[rows_B],
            user_row_B=self.user_row_N[rows_B],
            click_B=self.click_N[rows_B],
        )


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The datasets the inputs are made from."""

    examples: Dataset
    histories: Dataset
    items: Dataset
    users: Dataset
    item_stats: Dataset


def read_inputs(tables: Tables, item_rows: pa.Table, max_history: int, min_id_count: int) -> CtrInputs:
    """Makes the tensors.

    Args:
        tables: the datasets.
        item_rows: vector_row and item_id of the published item vectors.
        max_history: the latest events of a history that are kept.
        min_id_count: ids and values with fewer training rows are unknown.

    Raises:
        StageError: the training, valid or test split is empty or has one class only.
    """
    examples = tables.examples.table()
    split_rows = _split_rows(examples)
    catalogue = tables.items.table(["item_id", "category", "attributes"])
    item_ids = catalogue.column("item_id").combine_chunks()
    fields, codes_NF, catalogue_codes_C2 = _encode(
        examples, catalogue, tables.users.table(), split_rows["train"], min_id_count
    )
    rows_C = np.append(0, 1 + _position(catalogue.column("item_id"), item_rows.column("item_id")))
    stats = tables.item_stats.table(["item_id", "exposures", "first_seen_at"])
    stats_C = _position(catalogue.column("item_id"), stats.column("item_id"))
    history_row_N, history_SL, is_liked_SL, cut_S = _histories(tables.histories, examples, item_ids, max_history)
    seen_at_C = np.append(0, _per_item(stats.column("first_seen_at").cast("int64"), stats_C))
    is_known_SL = seen_at_C[history_SL] <= cut_S[:, None]
    return CtrInputs(
        fields=fields,
        codes_NF=torch.from_numpy(codes_NF),
        history_row_N=torch.from_numpy(history_row_N),
        history_SL=torch.from_numpy(history_SL),
        is_liked_SL=torch.from_numpy(is_liked_SL),
        history_rows_SL=torch.from_numpy(np.where(is_known_SL, rows_C[history_SL], 0).astype(np.int32)),
        item_row_N=_vector_rows(examples.column("item_vector_row")),
        user_row_N=_vector_rows(examples.column("user_vector_row")),
        click_N=torch.from_numpy(examples.column("is_click").to_numpy().astype(np.float32)),
        split_rows={name: torch.from_numpy(rows) for name, rows in split_rows.items()},
        catalogue_codes_C2=torch.from_numpy(catalogue_codes_C2),
        exposures_C=torch.from_numpy(np.append(0, _per_item(stats.column("exposures"), stats_C)).astype(np.float32)),
        event_id_N=examples.column("event_id").to_numpy(),
        user_id_N=examples.column("user_id").combine_chunks(),
        item_id_N=examples.column("item_id").combine_chunks(),
    )


def _split_rows(examples: pa.Table) -> dict[str, Rows]:
    """Rows of each split, checked: an AUC needs both classes on each side."""
    click_N = examples.column("is_click").to_numpy()
    rows = {name: np.flatnonzero(pc.equal(examples.column("split"), name).to_numpy()) for name in SPLITS}
    counts = ", ".join(f"{name} {len(rows[name]):,}" for name in SPLITS)
    for name in SPLITS:
        clicks = int(click_N[rows[name]].sum())
        if clicks in (0, len(rows[name])):
            found = f"{clicks:,} clicks among its {len(rows[name]):,} rows"
            raise StageError(
                f"ctr_model: the {name} split has {found} (examples: {counts}), and both clicks and impressions without"
                " one are wanted there; change label, [labels] split or negatives in the source, then run: msd run"
                " ctr_model --source FILE.toml"
            )
    return rows


def _encode(
    examples: pa.Table, catalogue: pa.Table, users: pa.Table, train: Rows, min_count: int
) -> tuple[tuple[Field, ...], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """All fields, the examples' codes, and the codes of item_id and category by catalogue entry."""
    item_N = _position(examples.column("item_id"), catalogue.column("item_id"))
    user_N = _position(examples.column("user_id"), users.column("user_id"))
    event_N = np.arange(len(examples), dtype=np.int64)
    entities: list[tuple[Column, Rows]] = [
        (string_column("user_id", users.column("user_id"), is_id=True), user_N),
        (string_column("item_id", catalogue.column("item_id"), is_id=True), item_N),
        (string_column("category", catalogue.column("category"), is_id=True), item_N),
        *((column, item_N) for column in attribute_columns("item", catalogue.column("attributes"))),
        *((column, user_N) for column in attribute_columns("user", users.column("attributes"))),
        *((column, event_N) for column in attribute_columns("context", examples.column("context"))),
    ]
    fields: list[Field] = []
    codes: list[npt.NDArray[np.int32]] = []
    catalogue_codes: list[npt.NDArray[np.int32]] = []
    offset = 0
    for column, entity_N in entities:
        enumerated = enumerate_field(column, entity_N[train], offset, min_count)
        if enumerated is None:
            continue
        field, codes_E = enumerated
        fields.append(field)
        codes.append(np.append(codes_E, np.int32(offset))[entity_N])
        if column.name in ("item_id", "category"):
            catalogue_codes.append(np.append(np.int32(offset), codes_E))
        offset += field.size
    return tuple(fields), np.stack(codes, axis=1), np.stack(catalogue_codes, axis=1)


def _histories(
    histories: Dataset, examples: pa.Table, item_ids: pa.Array, max_history: int
) -> tuple[Rows, npt.NDArray[np.int32], npt.NDArray[np.bool_], Rows]:
    """The histories that examples name: the example's row, catalogue entries, labels and the cut's time (µs)."""
    table = histories.table(["snapshot_at", "item_ids", "labels"])
    named = pc.fill_null(examples.column("history_row"), -1).to_numpy()
    used, history_row_N = np.unique(np.append(-1, named), return_inverse=True)
    lists = table.column("item_ids").combine_chunks()
    offsets = lists.offsets.to_numpy().astype(np.int64)
    entries = 1 + _position(lists.values, item_ids)
    labels = table.column("labels").combine_chunks().values.to_numpy(zero_copy_only=False)
    starts_S, ends_S = np.append(0, offsets[used[1:]]), np.append(0, offsets[used[1:] + 1])
    place_SL = ends_S[:, None] - max_history + np.arange(max_history)
    is_event_SL = place_SL >= starts_S[:, None]
    place_SL[~is_event_SL] = 0
    history_SL = np.where(is_event_SL, np.append(entries, 0)[place_SL], 0).astype(np.int32)
    is_liked_SL = is_event_SL & (np.append(labels, 0)[place_SL] == 1)
    cut_S = np.append(0, table.column("snapshot_at").cast("int64").to_numpy()[used[1:]])
    return history_row_N[1:].astype(np.int64), history_SL, is_liked_SL, cut_S


def _position(values: pa.Array | pa.ChunkedArray, known: pa.Array | pa.ChunkedArray) -> Rows:
    """Where each value stands among the known ones; -1 for nowhere."""
    found = pc.index_in(values, value_set=known)
    return pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64)


def _per_item(values: pa.ChunkedArray, stats_C: Rows) -> Rows:
    """A column of item_stats in catalogue order; 0 for an item it lacks."""
    return np.append(values.to_numpy(), 0)[stats_C]


def _vector_rows(rows: pa.ChunkedArray) -> Tensor:
    return torch.from_numpy((pc.fill_null(rows, -1).to_numpy() + 1).astype(np.int32))
