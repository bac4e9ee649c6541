"""The texts of events as row numbers of context_texts, found by the hash that names them."""

# Letters: N examples, Q text-context columns, V distinct texts.

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from msd_models.fields import Rows, attribute_columns
from pipeline.storage import Dataset
from pipeline.texts import text_id


class ContextRows:
    """Finds a text's row: 0 where there is none, r + 1 for row r of context_texts."""

    def __init__(self, context_texts: Dataset, names: tuple[str, ...]) -> None:
        """Holds eight bytes a text.

        Args:
            context_texts: the dataset.
            names: the source's text_context.
        """
        self.names = names
        texts = context_texts.table(["text_id"]) if names else None
        ids = _as_numbers(texts.column("text_id").to_pylist()) if texts is not None else np.zeros(0, dtype=np.uint64)
        self.num_rows = len(ids)
        self._row_of = np.argsort(ids, kind="stable")
        self._sorted = ids[self._row_of]

    def of(self, contexts: pa.ChunkedArray) -> npt.NDArray[np.int64]:
        """rows_NQ of a column of name → text maps."""
        rows_NQ = np.zeros((len(contexts), len(self.names)), dtype=np.int64)
        if not self.names:
            return rows_NQ
        columns = {column.name: column for column in attribute_columns("", contexts)}
        for position, name in enumerate(self.names):
            column = columns.get(f".{name}")
            if column is not None:
                rows_NQ[:, position] = np.append(self._rows(column.distinct), 0)[column.index_E]
        return rows_NQ

    def _rows(self, distinct: pa.Array) -> Rows:
        wanted = _as_numbers([text_id(text) for text in pc.fill_null(distinct, "").to_pylist()])
        if not len(self._sorted):
            return np.zeros(len(wanted), dtype=np.int64)
        place_V = np.minimum(np.searchsorted(self._sorted, wanted), len(self._sorted) - 1)
        return np.where(self._sorted[place_V] == wanted, self._row_of[place_V] + 1, 0)


def _as_numbers(ids: list[str]) -> npt.NDArray[np.uint64]:
    return np.array([int(text, 16) for text in ids], dtype=np.uint64)
