"""What vectors add to a tabular click model: the AUC on valid labels with them, minus the AUC without (SuKD's lesson).

A language model's own loss says how well it speaks, not whether what it knows helps where the counts already know much.
The model here is a logistic regression, which takes a second: it only has to rank checkpoints and poolings of one
student. Vectors enter as the target's likeness to what the user liked before, never as an id could: cosines, and the
product of target and history in the main directions of the items. Test labels are never read.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from msd_models.metrics import auc
from msd_models.stable_sample import hashed_numbers
from pipeline.storage import Dataset
from pipeline.texts import item_text

# N labels, I items, D dimensions of a vector, H history places, F features, C main directions

TRAIN_LABELS = 20_000
VALID_LABELS = 10_000
HISTORY = 10
"""The latest items a user liked that a label's features look at."""
DIRECTIONS = 16
BATCH_ROWS = 65_536
DAY = 86_400_000_000
"""Microseconds."""


@dataclass(frozen=True, kw_only=True)
class Gain:
    """AUC on the valid labels."""

    tabular: float
    """Of the tabular facts alone."""
    with_vectors: float

    @property
    def value(self) -> float:
        """What the vectors add."""
        return self.with_vectors - self.tabular


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Drawn labels of one split."""

    click_N: np.ndarray
    target_N: np.ndarray
    """Place of the item in `Downstream.item_ids`."""
    history_NH: np.ndarray
    """Places of the items liked before, −1 where there are fewer."""
    facts_NF: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Downstream:
    """Labels to rank, and the items whose vectors are wanted for it."""

    item_ids: list[str]
    texts: list[str]
    """Of the items, as vectors are made of."""
    train: Labels
    valid: Labels

    def gain(self, vectors_ID: np.ndarray) -> Gain:
        """The AUC with and without vectors of `texts`, in that order."""
        direction_ID = _unit(vectors_ID - vectors_ID.mean(axis=0))
        main_IC = _main_directions(direction_ID)
        rows = {
            name: np.hstack([labels.facts_NF, _likeness(labels, direction_ID, main_IC)])
            for name, labels in (("train", self.train), ("valid", self.valid))
        }
        return Gain(
            tabular=_valid_auc(self, self.train.facts_NF, self.valid.facts_NF),
            with_vectors=_valid_auc(self, rows["train"], rows["valid"]),
        )


def read_downstream(
    items: Dataset, interactions: Dataset, histories: Dataset, item_stats: Dataset, seed: int
) -> Downstream | None:
    """Draws labels by a hash of their event and joins what was known strictly before each.

    Args:
        items: for the texts.
        interactions: at most TRAIN_LABELS of train and VALID_LABELS of valid are drawn, whatever their order.
        histories: the latest snapshot at or before a label's time, which holds events strictly before it.
        item_stats: counts of the training window.
        seed: of the draw.

    Returns:
        None where a split lacks clicks or lacks impressions without one: there is nothing to rank.
    """
    drawn = _draw_labels(interactions, seed)
    if any(len(set(table.column("is_click").to_pylist())) < 2 for table in drawn.values()):
        return None
    known = {name: _histories_before(table, histories) for name, table in drawn.items()}
    targets = {name: table.column("item_id").to_pylist() for name, table in drawn.items()}
    wanted = {item for ids in targets.values() for item in ids}
    wanted |= {item for liked, _ in known.values() for ids in liked for item in ids}
    texts = _texts(items, wanted)
    place = {item: number for number, item in enumerate(texts)}
    stats = _stats(item_stats, {item for ids in targets.values() for item in ids})
    labels = {
        name: Labels(
            click_N=table.column("is_click").to_numpy(),
            target_N=np.array([place[item] for item in targets[name]]),
            history_NH=_places(known[name][0], place),
            facts_NF=_facts(table, stats, known[name][1]),
        )
        for name, table in drawn.items()
    }
    return Downstream(item_ids=list(texts), texts=list(texts.values()), **labels)


def _draw_labels(interactions: Dataset, seed: int) -> dict[str, pa.Table]:
    """The labels with the smallest hashes of each split, read in bounded memory."""
    limits = {"train": TRAIN_LABELS, "valid": VALID_LABELS}
    kept: dict[str, pa.Table] = {}
    for batch in interactions.batches(BATCH_ROWS):
        table = pa.Table.from_batches([batch]).select(
            ["event_id", "user_id", "item_id", "event_at", "is_click", "split"]
        )
        table = table.append_column("hash", pa.array(hashed_numbers(table.column("event_id").to_numpy(), seed)))
        for name, limit in limits.items():
            found = table.filter(pc.equal(table.column("split"), name))
            joined = pa.concat_tables([kept[name], found]) if name in kept else found
            order = np.argsort(joined.column("hash").to_numpy(), kind="stable")[:limit]
            kept[name] = joined.take(pa.array(order)).combine_chunks()
    return kept or {name: interactions.table().append_column("hash", pa.array([], pa.uint64())) for name in limits}


def _histories_before(labels: pa.Table, histories: Dataset) -> tuple[list[list[str]], np.ndarray]:
    """(items liked, latest last; events so far) as of each label; empty and 0 where the user had no history yet."""
    users = labels.column("user_id").unique()
    user_N = pc.index_in(labels.column("user_id"), users).to_numpy()
    time_N = labels.column("event_at").cast(pa.int64()).to_numpy()
    best_N = np.full(len(user_N), -1, dtype=np.int64)
    liked: list[list[str]] = [[] for _ in user_N]
    events_N = np.zeros(len(user_N), dtype=np.int64)
    for batch in histories.batches(BATCH_ROWS):
        table = pa.Table.from_batches([batch]).filter(pc.is_in(batch.column("user_id"), users))
        if not table.num_rows:
            continue
        snapshot_S = table.column("snapshot_at").cast(pa.int64()).to_numpy()
        user_S = pc.index_in(table.column("user_id"), users).to_numpy()
        found_N = _latest_before(user_S, snapshot_S, user_N, time_N)
        better_N = np.flatnonzero((found_N >= 0) & (snapshot_S[np.maximum(found_N, 0)] > best_N))
        rows = table.select(["item_ids", "labels", "num_events"]).take(pa.array(found_N[better_N])).to_pylist()
        for label, row in zip(better_N, rows, strict=True):
            best_N[label], events_N[label] = snapshot_S[found_N[label]], row["num_events"]
            liked[label] = [item for item, one in zip(row["item_ids"], row["labels"], strict=True) if one][-HISTORY:]
    return liked, events_N


def _latest_before(user_S: np.ndarray, time_S: np.ndarray, user_N: np.ndarray, time_N: np.ndarray) -> np.ndarray:
    """For each label the row of its user's latest snapshot at or before its time; −1 where there is none."""
    rows = np.r_[np.arange(len(user_S)), np.full(len(user_N), -1)]
    users, times = np.r_[user_S, user_N], np.r_[time_S, time_N]
    order = np.lexsort((rows < 0, times, users))
    is_snapshot = rows[order] >= 0
    latest = np.maximum.accumulate(np.where(is_snapshot, np.arange(len(order)), -1))
    same_user = (latest >= 0) & (users[order][np.maximum(latest, 0)] == users[order])
    found = np.where(same_user, rows[order][np.maximum(latest, 0)], -1)
    result = np.empty(len(order), dtype=np.int64)
    result[order] = found
    return result[len(user_S) :]


def _texts(items: Dataset, wanted: set[str]) -> dict[str, str]:
    return {
        row["item_id"]: item_text(row["text"], dict(row["attributes"] or ()))
        for row in _rows_of(items, wanted, ["item_id", "text", "attributes"])
    }


def _stats(item_stats: Dataset, wanted: set[str]) -> dict[str, Mapping[str, Any]]:
    columns = ["item_id", "exposures", "clicks", "ctr_shrunk", "category_ctr", "first_seen_at"]
    return {row["item_id"]: row for row in _rows_of(item_stats, wanted, columns)}


def _rows_of(dataset: Dataset, wanted: set[str], columns: list[str]) -> Iterator[dict[str, Any]]:
    ids = pa.array(sorted(wanted), pa.string())
    for batch in dataset.batches(BATCH_ROWS):
        yield from batch.filter(pc.is_in(batch.column("item_id"), ids)).select(columns).to_pylist()


def _places(liked: Sequence[Sequence[str]], place: Mapping[str, int]) -> np.ndarray:
    places_NH = np.full((len(liked), HISTORY), -1, dtype=np.int64)
    for number, ids in enumerate(liked):
        places_NH[number, : len(ids)] = [place[item] for item in ids]
    return places_NH


def _facts(labels: pa.Table, stats: Mapping[str, Mapping[str, Any]], events_N: np.ndarray) -> np.ndarray:
    """The tabular facts [N, F]: counts and rates of the item, its age, and how much is known of the user."""
    rows = [stats[item] for item in labels.column("item_id").to_pylist()]
    seen_N = (
        pa.array([row["first_seen_at"] for row in rows], labels.column("event_at").type).cast(pa.int64()).to_numpy()
    )
    age_N = np.maximum(labels.column("event_at").cast(pa.int64()).to_numpy() - seen_N, 0) / DAY
    columns = [np.log1p([row[name] for row in rows]) for name in ("exposures", "clicks")]
    columns += [np.array([row[name] for row in rows]) for name in ("ctr_shrunk", "category_ctr")]
    columns += [np.log1p(age_N), np.log1p(events_N), (events_N > 0).astype(float)]
    return np.column_stack(columns)


def _likeness(labels: Labels, direction_ID: np.ndarray, main_IC: np.ndarray) -> np.ndarray:
    """Features of the vectors [N, 3 + C]; all zero where nothing else was liked before.

    The target itself is left out of the history: that somebody liked this very item is no news, but any vectors, dealt
    to the wrong items as well, would tell it by a cosine of 1.
    """
    known_NH = (labels.history_NH >= 0) & (labels.history_NH != labels.target_N[:, None])
    count_N1 = np.maximum(known_NH.sum(axis=1, keepdims=True), 1)
    cosine_NH = np.zeros(known_NH.shape)
    for place in range(known_NH.shape[1]):
        history_ND = direction_ID[labels.history_NH[:, place]]
        cosine_NH[:, place] = np.einsum("nd,nd->n", direction_ID[labels.target_N], history_ND)
    ranked_NH = -np.sort(-np.where(known_NH, cosine_NH, -1.0), axis=1)
    nearest_N1 = np.where(known_NH.any(axis=1, keepdims=True), ranked_NH[:, :1], 0.0)
    near_NH = np.where(ranked_NH[:, :3] > -1.0, ranked_NH[:, :3], 0.0)
    near_N1 = near_NH.sum(axis=1, keepdims=True) / np.minimum(count_N1, 3)
    mean_N1 = (cosine_NH * known_NH).sum(axis=1, keepdims=True) / count_N1
    liked_NC = (main_IC[labels.history_NH] * known_NH[:, :, None]).sum(axis=1) / count_N1
    return np.hstack([nearest_N1, near_N1, mean_N1, main_IC[labels.target_N] * liked_NC])


def _main_directions(direction_ID: np.ndarray) -> np.ndarray:
    from sklearn.decomposition import PCA

    wanted = min(DIRECTIONS, *direction_ID.shape)
    main_IC = PCA(n_components=wanted, svd_solver="full").fit_transform(direction_ID)
    return main_IC / np.maximum(main_IC.std(axis=0), 1e-9)


def _valid_auc(downstream: Downstream, train_NF: np.ndarray, valid_NF: np.ndarray) -> float:
    from sklearn.linear_model import LogisticRegression

    mean_F, deviation_F = train_NF.mean(axis=0), np.maximum(train_NF.std(axis=0), 1e-9)
    model = LogisticRegression(C=0.1, max_iter=1000)
    model.fit((train_NF - mean_F) / deviation_F, downstream.train.click_N)
    scores_N = model.predict_proba((valid_NF - mean_F) / deviation_F)[:, 1]
    return auc(downstream.valid.click_N, scores_N)


def _unit(vectors_ID: np.ndarray) -> np.ndarray:
    return vectors_ID / np.maximum(np.linalg.norm(vectors_ID, axis=1, keepdims=True), 1e-9)
