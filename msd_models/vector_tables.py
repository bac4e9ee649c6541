"""Vectors of items and users as tables whose rows the examples name, one pair of tables per semantic source.

The student's vectors are the ones the feature store published (`vectors.npy`, read through a memory map); the placebos
are laid out in the same rows, so that the arms differ in the numbers alone: another encoder's vectors of the same
texts, Gaussian noise, or the student's own vectors dealt to the wrong items and users.
"""

# Letters: N rows of a table, D numbers in a vector, U users.

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import SpaceMismatch, StageError
from pipeline.storage import Dataset

Vectors = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]
BATCH_ROWS = 8192


class VectorSource(StrEnum):
    """Where an arm's vectors come from."""

    STUDENT = "student"
    TUNED = "tuned"
    RAW_TEXT = "raw_text"
    SHUFFLED = "shuffled"
    RANDOM = "random"


@dataclass(frozen=True, kw_only=True)
class VectorTable:
    """One vector a row; all of one space."""

    vectors_ND: Vectors
    has_vector_N: Flags
    """False where the source has no vector for the row; its numbers are zeros."""
    space_id: str


@dataclass(frozen=True, kw_only=True)
class SemanticVectors:
    """Everything a semantic arm can read: the published tables, and what lies beside them."""

    items: VectorTable
    users: VectorTable
    item_rows: pa.Table
    """vector_row, item_id."""
    user_rows: pa.Table
    """vector_row, user_id, snapshot_at."""
    item_text_vectors: Dataset
    user_text_vectors: Dataset


def read_vectors(
    item_features: Dataset, user_features: Dataset, item_text_vectors: Dataset, user_text_vectors: Dataset
) -> SemanticVectors:
    """Opens the published tables.

    Raises:
        SpaceMismatch: items and users were published in two spaces.
    """
    items, users = _published(item_features), _published(user_features)
    if items.space_id != users.space_id:
        raise SpaceMismatch(
            f"ctr_model: items are published in space {items.space_id} and users in {users.space_id}, and one model"
            " reads one space; run: msd run item_features user_features"
        )
    return SemanticVectors(
        items=items,
        users=users,
        item_rows=_in_order(item_features, ["vector_row", "item_id"]),
        user_rows=_in_order(user_features, ["vector_row", "user_id", "snapshot_at"]),
        item_text_vectors=item_text_vectors,
        user_text_vectors=user_text_vectors,
    )


def tables_of(source: VectorSource, vectors: SemanticVectors, seed: int) -> tuple[VectorTable, VectorTable]:
    """The item table and the user table of one semantic source, in the rows of the published tables."""
    generator = np.random.default_rng(seed)
    items, users = vectors.items, vectors.users
    match source:
        case VectorSource.STUDENT:
            return items, users
        case VectorSource.RAW_TEXT:
            return (
                _aligned(vectors.item_text_vectors, vectors.item_rows, ["item_id"]),
                _aligned(vectors.user_text_vectors, vectors.user_rows, ["user_id", "snapshot_at"]),
            )
        case VectorSource.SHUFFLED:
            item_deal = _cyclic_deal(len(items.vectors_ND), generator)
            user_deal = _deal_users(vectors.user_rows, generator)
            return _redealt(items, item_deal), _redealt(users, user_deal)
        case VectorSource.RANDOM:
            return _noise_like(items, generator), _noise_like(users, generator)


def _published(features: Dataset) -> VectorTable:
    path = features.folder / "vectors.npy"
    if not path.is_file():
        raise StageError(f"{features.name}: {path.name} is not in its folder; run: msd run {features.name}")
    # Copy-on-write: torch wants a writable buffer, and the file stays as it is.
    vectors_ND = np.load(path, mmap_mode="c")
    return VectorTable(
        vectors_ND=vectors_ND,
        has_vector_N=np.ones(len(vectors_ND), dtype=np.bool_),
        space_id=str(features.details["space_id"]),
    )


def _in_order(features: Dataset, columns: list[str]) -> pa.Table:
    rows = pq.read_table(features.folder / "rows.parquet", columns=columns).sort_by("vector_row")
    if not np.array_equal(rows.column("vector_row").to_numpy(), np.arange(len(rows))):
        raise StageError(
            f"{features.name}: rows.parquet does not number the vectors 0 to {len(rows) - 1}; publish them again:"
            f" msd run {features.name}"
        )
    return rows


def _aligned(dataset: Dataset, rows: pa.Table, keys: list[str]) -> VectorTable:
    """The dataset's vectors in the order of `rows`, one batch in memory beside the result."""
    wanted = _joined_key(rows, keys)
    vectors_ND: Vectors = np.zeros((len(rows), 1), dtype=np.float32)
    has_vector_N = np.zeros(len(rows), dtype=np.bool_)
    spaces: set[str] = set()
    lengths: set[int] = set()
    for batch in dataset.batches(BATCH_ROWS):
        table = pa.Table.from_batches([batch])
        spaces.update(pc.unique(table.column("space_id")).to_pylist())
        lengths.update(pc.unique(pc.list_value_length(table.column("vector"))).to_pylist())
        _check_one_space(dataset, spaces, lengths)
        if vectors_ND.shape[1] != min(lengths):
            vectors_ND = np.zeros((len(rows), min(lengths)), dtype=np.float32)
        found = pc.index_in(wanted, value_set=_joined_key(table, keys))
        is_here_N = found.is_valid().to_numpy(zero_copy_only=False)
        batch_BD = table.column("vector").combine_chunks().flatten().to_numpy(zero_copy_only=False)
        vectors_ND[is_here_N] = batch_BD.reshape(len(table), -1)[found.drop_null().to_numpy(zero_copy_only=False)]
        has_vector_N |= is_here_N
    return VectorTable(vectors_ND=vectors_ND, has_vector_N=has_vector_N, space_id=next(iter(spaces), ""))


def _check_one_space(dataset: Dataset, spaces: set[str], lengths: set[int]) -> None:
    if len(spaces) > 1 or len(lengths) > 1:
        raise SpaceMismatch(
            f"{dataset.name} mixes vectors of spaces {', '.join(sorted(spaces))} and lengths"
            f" {', '.join(map(str, sorted(lengths)))} where one of each is wanted; run: msd run {dataset.name}"
        )


def _joined_key(table: pa.Table, keys: list[str]) -> pa.Array:
    """The key columns as one string; a unit separator cannot make two keys alike, as times hold none."""
    parts = [table.column(key) for key in keys]
    texts = [part if pa.types.is_string(part.type) else part.cast(pa.int64()).cast(pa.string()) for part in parts]
    return pc.binary_join_element_wise(*texts, "\x1f").combine_chunks()


def _redealt(table: VectorTable, deal_N: Rows) -> VectorTable:
    return replace(table, vectors_ND=table.vectors_ND[deal_N], has_vector_N=table.has_vector_N[deal_N])


def _noise_like(table: VectorTable, generator: np.random.Generator) -> VectorTable:
    noise_ND = generator.standard_normal(table.vectors_ND.shape, dtype=np.float32)
    return replace(table, vectors_ND=noise_ND)


def _cyclic_deal(count: int, generator: np.random.Generator) -> Rows:
    """A random permutation without a fixed point (where there are two rows at least)."""
    order = generator.permutation(count)
    deal = np.empty(count, dtype=np.int64)
    deal[order] = np.roll(order, 1)
    return deal


def _deal_users(user_rows: pa.Table, generator: np.random.Generator) -> Rows:
    """Each user reads another user's snapshots, the first for the first and so on.

    A user with more snapshots than the other one reads the other's last one again. All snapshots of a user move
    together: were they dealt singly, a user's rows would contradict each other and the placebo would be weaker than
    what it stands for.
    """
    count = len(user_rows)
    user_N = user_rows.column("user_id").combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    time_N = user_rows.column("snapshot_at").cast("int64").to_numpy()
    by_user = np.lexsort((time_N, user_N))
    counts_U = np.bincount(user_N) if count else np.zeros(0, dtype=np.int64)
    starts_U = np.cumsum(counts_U) - counts_U
    other_U = _cyclic_deal(len(counts_U), generator)
    rank_N = np.empty(count, dtype=np.int64)
    rank_N[by_user] = np.arange(count) - starts_U[user_N[by_user]]
    other_N = other_U[user_N]
    return by_user[starts_U[other_N] + np.minimum(rank_N, counts_U[other_N] - 1)]
