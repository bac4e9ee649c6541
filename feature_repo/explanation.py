"""What the feature store knows of one id: its neighbours, its online value and the publications that hold it."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from feature_repo.lookup import Entity, vector_lookup
from feature_repo.offline import ROWS_FILE, VECTORS_FILE
from feature_repo.published_vectors import PublishedVectors
from feature_repo.redis_keeper import STATE_FILE
from pipeline.errors import MsdError

BLOCK_ROWS = 65_536
# N rows of a block, D dimensions, K nearest


def nearest_items(
    folder: Path, vector: Sequence[float], count: int, *, leaving_out: str | None = None
) -> list[tuple[str, float]]:
    """The items whose vectors have the greatest cosine with a vector, nearest first.

    Args:
        folder: of item_features; vectors.npy is mapped and read block by block.
        vector: of the same space.
        count: how many.
        leaving_out: an item that is no neighbour of itself.
    """
    vectors_ND = np.load(folder / VECTORS_FILE, mmap_mode="r", allow_pickle=False)
    ids = pq.read_table(folder / ROWS_FILE, columns=["vector_row", "item_id"]).sort_by("vector_row").column("item_id")
    wanted_D = np.asarray(vector, dtype=np.float32)
    wanted_D = wanted_D / max(float(np.linalg.norm(wanted_D)), 1e-12)
    best: list[tuple[float, int]] = []
    for start in range(0, len(vectors_ND), BLOCK_ROWS):
        block_ND = np.asarray(vectors_ND[start : start + BLOCK_ROWS], dtype=np.float32)
        cosine_N = block_ND @ wanted_D / np.maximum(np.linalg.norm(block_ND, axis=1), 1e-12)
        nearest_K = np.argsort(-cosine_N, kind="stable")[: count + 1]
        best = sorted([*best, *((-float(cosine_N[row]), start + int(row)) for row in nearest_K)])[: count + 1]
    named = [(ids[row].as_py(), -distance) for distance, row in best]
    return [(item_id, cosine) for item_id, cosine in named if item_id != leaving_out][:count]


def online(work: Path, level: Entity, entity_id: str) -> list[str]:
    """Lines on what readers get for the id now; asks Redis only where it is running."""
    if not os.environ.get("REDIS_URL") and not (work / "redis" / STATE_FILE).is_file():
        return ["Redis is not running; msd redis keeps it up, then ask again"]
    try:
        with vector_lookup(work) as lookup:
            vectors_ND, found_N = lookup.lookup(level, [entity_id])
            pointer = lookup.pointer
    except MsdError as error:
        return [str(error)]
    generation = f"generation {pointer.generation} of the space {pointer.space_id}"
    if not found_N[0]:
        return [f"not in {generation}"]
    lines = [f"in {generation}: {vectors_ND.shape[1]} numbers, norm {np.linalg.norm(vectors_ND[0]):.3f}"]
    offline_ND, is_there_N = PublishedVectors(work)(pointer, level, [entity_id])
    if is_there_N[0]:
        difference = float(np.abs(vectors_ND[0] - offline_ND[0]).max())
        lines.append("the same as offline" if difference == 0 else f"at most {difference:.2g} apart from offline")
    return lines


def publications(work: Path, level: Entity, entity_id: str) -> list[str]:
    """The generations whose online rows hold the id."""
    held = []
    for folder in sorted([*work.glob("publication/*"), *work.glob("tuned_publication/*")]):
        paths = sorted((folder / "online").glob(f"{level}s-*.parquet"))
        if any(_holds(path, f"{level}_id", entity_id) for path in paths):
            held.append(f"{folder.parent.name}/{folder.name}: written to Redis")
    return held


def _holds(path: Path, key: str, entity_id: str) -> bool:
    return bool(pq.read_table(path, columns=[key], filters=[(key, "=", entity_id)], partitioning=None).num_rows)
