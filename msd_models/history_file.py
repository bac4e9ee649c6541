"""Histories laid out in fixed width in one file, so that an example finds its own by row number without a table.

The file is scratch of ctr_records. It is read through a map whose pages are given back after every read: memory does
not grow with the log, while the operating system's cache keeps what fits.
"""

# Letters: S histories, L positions, N examples.

import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from msd_models.ctr_inputs import IS_KNOWN, IS_LIKED
from msd_models.fields import Rows
from msd_models.record_files import Records
from pipeline.storage import Dataset

BATCH_ROWS = 65_536
MICROSECONDS_PER_MINUTE = 60_000_000


@dataclass(frozen=True, kw_only=True)
class HistoryFile:
    """The laid-out histories; row r of the dataset is record r + 1, record 0 is the empty history."""

    path: Path
    dtype: np.dtype
    max_history: int
    """L."""

    def read(self, rows_N: Rows) -> Records:
        """The records of histories; −1 is none, the empty history.

        Args:
            rows_N: row numbers of the dataset.
        """
        map_ = np.memmap(self.path, dtype=self.dtype, mode="r")
        distinct, place_N = np.unique(rows_N + 1, return_inverse=True)
        laid = np.asarray(map_[distinct])[place_N]
        map_._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]
        return laid


def lay_out_histories(
    path: Path, histories: Dataset, item_ids: pa.Array, seen_at_C: Rows, max_history: int
) -> HistoryFile:
    """Writes the file.

    Args:
        path: of the file.
        histories: the dataset.
        item_ids: of the catalogue; entry r + 1 is the r-th.
        seen_at_C: microseconds from which each entry's text was known.
        max_history: L, the latest events that are kept.
    """
    positions = [("history", "<i4"), ("flags", "u1"), ("minutes", "<i4")]
    dtype = np.dtype([(name, kind, (max_history,)) for name, kind in positions])
    with path.open("wb") as file:
        file.write(np.zeros(1, dtype=dtype).tobytes())
        for batch in histories.batches(BATCH_ROWS):
            file.write(_laid_out(batch, item_ids, seen_at_C, dtype).tobytes())
    return HistoryFile(path=path, dtype=dtype, max_history=max_history)


def _laid_out(batch: pa.RecordBatch, item_ids: pa.Array, seen_at_C: Rows, dtype: np.dtype) -> Records:
    lists = batch.column("item_ids")
    offsets = lists.offsets.to_numpy().astype(np.int64)
    width = dtype["history"].shape[0]
    place_SL = offsets[1:, None] - width + np.arange(width)
    is_event_SL = place_SL >= offsets[:-1, None]
    place_SL[~is_event_SL] = 0
    found = pc.fill_null(pc.index_in(lists.values, value_set=item_ids), -1)
    entries = np.append(1 + found.to_numpy(zero_copy_only=False).astype(np.int64), 0)
    labels = np.append(batch.column("labels").values.to_numpy(zero_copy_only=False), 0)
    times = np.append(batch.column("event_times").values.cast("int64").to_numpy(zero_copy_only=False), 0)
    laid = np.zeros(len(batch), dtype=dtype)
    history_SL = np.where(is_event_SL, entries[place_SL], 0)
    cut_S = batch.column("snapshot_at").cast("int64").to_numpy()
    is_known_SL = seen_at_C[history_SL] <= cut_S[:, None]
    laid["history"] = history_SL
    laid["flags"] = (is_event_SL & (labels[place_SL] == 1)) * IS_LIKED + (is_event_SL & is_known_SL) * IS_KNOWN
    laid["minutes"] = np.where(is_event_SL, times[place_SL] // MICROSECONDS_PER_MINUTE, 0)
    return laid
