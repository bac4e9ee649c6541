"""What items, users and texts of events are read as: rows of a batch to texts, or to behaviours.

The same rendering stands behind the vectors and behind `msd plan`, which counts what is not kept yet.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pyarrow as pa

from msd_models.behaviours import Behaviours
from pipeline.config import Vectors
from pipeline.storage import Dataset
from pipeline.texts import item_text, profile_text, user_text

Read = str | Behaviours
"""What an encoder makes one vector of."""


def content_of(read: Read) -> bytes:
    """The bytes whose hash stands for what is read."""
    if isinstance(read, str):
        return read.encode()
    return json.dumps([read.profile, read.items, read.labels], ensure_ascii=False).encode()


def item_texts(items: pa.RecordBatch) -> list[str]:
    """The text and attributes of each row of items."""
    attributes = items.column("attributes")
    names, values = attributes.keys.to_pylist(), attributes.items.to_pylist()
    spans = pairwise(attributes.offsets.to_pylist())
    pairs = (dict(zip(names[first:end], values[first:end], strict=True)) for first, end in spans)
    return [item_text(text, own) for text, own in zip(items.column("text").to_pylist(), pairs, strict=True)]


class UserReads:
    """Rows of histories as texts or behaviours; knows all titles and profiles."""

    def __init__(self, config: Vectors, items: Dataset, users: Dataset) -> None:
        """Reads both tables.

        Args:
            config: mode and history_titles.
            items: for the titles.
            users: for the profiles.
        """
        self.config = config
        self.titles = dict(zip(*_column_lists(items, "item_id", "title"), strict=True))
        ids, attributes = _column_lists(users, "user_id", "attributes")
        self.profiles = {user: dict(pairs) for user, pairs in zip(ids, attributes, strict=True) if pairs}

    def of(self, histories: pa.RecordBatch) -> list[Read]:
        """What each row is read as."""
        rows = _latest(histories, self.config.history_titles)
        if self.config.mode == "behaviours":
            return [self._behaviours(row) for row in rows]
        return [history_text(row, self.titles, self.profiles, self.config.history_titles) for row in rows]

    def _behaviours(self, row: Mapping[str, Any]) -> Behaviours:
        return Behaviours(
            profile=profile_text(self.profiles.get(row["user_id"], {})),
            items=tuple(self.titles[item] for item in row["item_ids"]),
            labels=tuple(row["labels"]),
        )


def history_text(
    row: Mapping[str, Any], titles: Mapping[str, str], profiles: Mapping[str, Mapping[str, str]], num_titles: int
) -> str:
    """What a user is read as: the profile and the latest titles of a row of histories.

    Args:
        row: user_id, item_ids and labels.
        titles: of the items.
        profiles: of the users.
        num_titles: of the history, the latest ones.
    """
    shown = row["item_ids"][-num_titles:] if num_titles else []
    labels = row["labels"][-num_titles:] if num_titles else []
    return user_text(profiles.get(row["user_id"], {}), [titles[item] for item in shown], labels)


def _latest(histories: pa.RecordBatch, number: int) -> list[dict[str, Any]]:
    """user_id and the latest item_ids and labels of each row."""
    cut: dict[str, list[Sequence[Any]]] = {}
    for name in ("item_ids", "labels"):
        column = histories.column(name)
        values, spans = column.values.to_pylist(), pairwise(column.offsets.to_pylist())
        cut[name] = [values[max(first, end - number) : end] for first, end in spans]
    users = histories.column("user_id").to_pylist()
    return [
        {"user_id": user, "item_ids": items, "labels": labels}
        for user, items, labels in zip(users, cut["item_ids"], cut["labels"], strict=True)
    ]


def _column_lists(dataset: Dataset, *names: str) -> list[list[Any]]:
    table = dataset.table(list(names))
    return [table.column(name).to_pylist() for name in names]
