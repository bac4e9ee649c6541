"""Vector tables, histories and statistics → the files Feast's offline store reads, and the matrix trainers map.

Nothing here needs Feast or Redis: a publication registers these files, and examples are joined to them directly.
"""

from pathlib import Path

from feature_repo import offline
from feature_repo.definitions import item_plans, user_plans
from pipeline.config import Features
from pipeline.storage import Dataset, Outcome


def write_items(config: Features, folder: Path, item_vectors: Dataset, item_stats: Dataset) -> Outcome:
    """Writes the views of items.

    Args:
        config: of the stage.
        folder: of the dataset; gets offline/, item_stats/, rows.parquet and vectors.npy.
        item_vectors: one row per item, all of one space.
        item_stats: one row per item.

    Returns:
        Rows counted in vectors; details name the space.

    Raises:
        SpaceMismatch: item_vectors holds two spaces.
        StageError: a vector is not fit to be published.
    """
    facts = offline.vector_facts(item_vectors)
    vectors, stats = item_plans(folder, facts.space_id)
    offline.write_vector_files(item_vectors, facts, vectors, "available_at", folder)
    return _receipt(facts, {vectors.name: facts.rows, stats.name: offline.write_stats_files(item_stats, stats)})


def write_users(
    config: Features, folder: Path, user_vectors: Dataset, histories: Dataset, user_stats: Dataset
) -> Outcome:
    """Writes the views of users.

    Args:
        config: of the stage.
        folder: of the dataset; gets offline/, user_histories/, user_stats/, rows.parquet and vectors.npy.
        user_vectors: one row per user and embedded snapshot, all of one space.
        histories: one row per user and snapshot; history_row counts them in the order of `histories.table()`.
        user_stats: one row per user.

    Returns:
        As of write_items.

    Raises:
        SpaceMismatch: user_vectors holds two spaces.
        StageError: a vector is not fit to be published.
    """
    facts = offline.vector_facts(user_vectors)
    vectors, past, stats = user_plans(folder, facts.space_id)
    offline.write_vector_files(user_vectors, facts, vectors, "snapshot_at", folder)
    counted = {
        vectors.name: facts.rows,
        past.name: offline.write_history_files(histories, past),
        stats.name: offline.write_stats_files(user_stats, stats),
    }
    return _receipt(facts, counted)


def write_tuned_items(config: Features, folder: Path, tuned_item_vectors: Dataset, item_stats: Dataset) -> Outcome:
    """The same of the tuned student's vectors."""
    return write_items(config, folder, tuned_item_vectors, item_stats)


def write_tuned_users(
    config: Features, folder: Path, tuned_user_vectors: Dataset, histories: Dataset, user_stats: Dataset
) -> Outcome:
    """The same of the tuned student's vectors."""
    return write_users(config, folder, tuned_user_vectors, histories, user_stats)


def _receipt(facts: offline.VectorFacts, rows: dict[str, int]) -> Outcome:
    details = {"space_id": facts.space_id, "dim": facts.dim, "offline_rows": rows}
    return Outcome(rows_in=facts.rows, rows_ok=facts.rows, details=details)
