"""Vectors of items, users and texts of events as tables whose rows the examples name: three tables per semantic source.

The student's item and user vectors are the ones the feature store published (`vectors.npy`, read through a memory map);
all others are laid out in the same rows (`vector_alignment`), so that the arms differ in the numbers alone: a tuned
student's or another encoder's vectors of the same texts, Gaussian noise, or the student's own dealt to the wrong rows.
"""

# Letters: N rows of a table, D numbers in a vector, U rows asked for, S user snapshots.

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from msd_models.stable_sample import hashed_numbers

Vectors = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]
NOISE_ROWS = 4096
"""Rows of noise that are held; each row of a larger table is the sum of two of them."""


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
    """May be a memory map; whoever wants rows asks `take`."""
    has_vector_N: Flags
    """False where the source has no vector for the row."""
    space_id: str
    deal_N: Rows | None = None
    """Which row of vectors_ND each row reads; None for its own."""
    noise_seed: int | None = None
    """Set where rows are noise: vectors_ND is then the pool it is made of."""

    @property
    def num_rows(self) -> int:
        """N."""
        return len(self.has_vector_N)

    @property
    def dim(self) -> int:
        """D."""
        return self.vectors_ND.shape[1]

    def take(self, rows_U: Rows) -> Vectors:
        """vectors_UD in float32, in memory."""
        if self.noise_seed is not None:
            return self._noise(rows_U)
        if self.deal_N is not None:
            rows_U = self.deal_N[rows_U]
        return np.asarray(self.vectors_ND[rows_U], dtype=np.float32)

    def _noise(self, rows_U: Rows) -> Vectors:
        assert self.noise_seed is not None
        first_U, second_U = (hashed_numbers(rows_U, self.noise_seed + part) % len(self.vectors_ND) for part in (0, 1))
        return (self.vectors_ND[first_U] + self.vectors_ND[second_U]) / np.float32(np.sqrt(2))


@dataclass(frozen=True, kw_only=True)
class ArmTables:
    """What one arm reads."""

    items: VectorTable
    users: VectorTable
    contexts: VectorTable


@dataclass(frozen=True, kw_only=True)
class SemanticVectors:
    """Everything a semantic arm can read, aligned to the same rows."""

    tables: Mapping[VectorSource, ArmTables]
    """Of student, and of tuned and raw_text where an arm reads them."""
    user_N: Rows
    """Which user each row of the user table belongs to."""
    time_N: Rows
    """And of which moment it is, in microseconds."""

    @property
    def space_id(self) -> str:
        """Of the published vectors; empty where no arm reads any."""
        return self.space_of(VectorSource.STUDENT)

    def space_of(self, source: VectorSource) -> str:
        """Of a source's vectors; empty for placebos, whose numbers belong to none."""
        return self.tables[source].items.space_id if source in self.tables else ""


def tables_of(source: VectorSource, vectors: SemanticVectors, seed: int) -> ArmTables:
    """The tables of one semantic source.

    Args:
        source: whose vectors.
        vectors: what is there.
        seed: of a deal or of noise.
    """
    if source in vectors.tables:
        return vectors.tables[source]
    student = vectors.tables[VectorSource.STUDENT]
    generator = np.random.default_rng(seed)
    if source is VectorSource.SHUFFLED:
        return ArmTables(
            items=replace(student.items, deal_N=cyclic_deal(student.items.num_rows, generator)),
            users=replace(student.users, deal_N=deal_users(vectors.user_N, vectors.time_N, generator)),
            contexts=replace(student.contexts, deal_N=cyclic_deal(student.contexts.num_rows, generator)),
        )
    assert source is VectorSource.RANDOM, f"{source} vectors were not aligned"
    return ArmTables(
        items=_noise_like(student.items, generator),
        users=_noise_like(student.users, generator),
        contexts=_noise_like(student.contexts, generator),
    )


def cyclic_deal(count: int, generator: np.random.Generator) -> Rows:
    """A random permutation without a fixed point (where there are two rows at least)."""
    order = generator.permutation(count)
    deal = np.empty(count, dtype=np.int64)
    deal[order] = np.roll(order, 1)
    return deal


def deal_users(user_N: Rows, time_N: Rows, generator: np.random.Generator) -> Rows:
    """Each user reads another user's snapshots, the first for the first and so on.

    A user with more snapshots than the other one reads the other's last one again. All snapshots of a user move
    together: were they dealt singly, a user's rows would contradict each other and the placebo would be weaker than
    what it stands for.

    Args:
        user_N: codes 0…U−1.
        time_N: of the snapshots.
        generator: of the deal.
    """
    count = len(user_N)
    by_user = np.lexsort((time_N, user_N))
    counts_U = np.bincount(user_N) if count else np.zeros(0, dtype=np.int64)
    starts_U = np.cumsum(counts_U) - counts_U
    other_U = cyclic_deal(len(counts_U), generator)
    rank_N = np.empty(count, dtype=np.int64)
    rank_N[by_user] = np.arange(count) - starts_U[user_N[by_user]]
    other_N = other_U[user_N]
    return by_user[starts_U[other_N] + np.minimum(rank_N, counts_U[other_N] - 1)]


def user_codes(user_ids: pa.ChunkedArray) -> Rows:
    """Codes 0…U−1 of user ids."""
    codes: Rows = user_ids.combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    return codes.astype(np.int64)


def _noise_like(table: VectorTable, generator: np.random.Generator) -> VectorTable:
    """Gaussian numbers: rows of a pool, or sums of two of them where the table is larger than the pool."""
    rows = min(table.num_rows, NOISE_ROWS)
    pool = generator.standard_normal((rows, table.dim), dtype=np.float32)
    seed = None if table.num_rows <= NOISE_ROWS else int(generator.integers(2**31))
    return replace(table, vectors_ND=pool, noise_seed=seed, deal_N=None)
