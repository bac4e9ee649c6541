"""Vector tables, histories and item statistics → Feast: offline files, definitions, online values, and a receipt.

Order matters: files first, then the registry that points at them, then the online store, read back; the receipt is
committed by the runner last. Killed anywhere and run again it writes the same files and replaces the same keys.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from feature_repo import offline, online
from feature_repo.definitions import ViewPlan, item_plans, user_plans
from feature_repo.redis_address import Redis
from feature_repo.redis_server import running_redis
from feature_repo.registry import activate, apply_views
from feature_repo.store import feast_home, open_store, quiet_feast, write_settings
from pipeline.config import Features
from pipeline.progress import note
from pipeline.storage import Dataset, Outcome


def publish_items(config: Features, folder: Path, item_vectors: Dataset, item_stats: Dataset) -> Outcome:
    """Publishes item vectors and item statistics.

    Args:
        config: whether and how to write the online store.
        folder: of the dataset item_features; gets offline/, item_stats/, rows.parquet and vectors.npy.
        item_vectors: one row per item, all of one space.
        item_stats: one row per item.

    Returns:
        The receipt: rows counted in vectors; details name the space, the views and what Redis holds.

    Raises:
        SpaceMismatch: item_vectors holds two spaces.
        StageError: a vector is not fit to be published.
        ServiceError: Redis cannot be reached.
    """
    facts = offline.vector_facts(item_vectors)
    vector_plan, stats_plan = item_plans(folder, facts.space_id)
    offline.write_vector_files(item_vectors, facts, vector_plan, "available_at", folder)
    num_stats = offline.write_stats_files(item_stats, stats_plan)
    plans = {vector_plan: facts.rows, stats_plan: num_stats}
    return _publish(config, folder, facts, plans)


def publish_users(config: Features, folder: Path, user_vectors: Dataset, histories: Dataset) -> Outcome:
    """Publishes user vectors and the row numbers of histories.

    Args:
        config: whether and how to write the online store.
        folder: of the dataset user_features; gets offline/, user_histories/, rows.parquet and vectors.npy.
        user_vectors: one row per user and embedded snapshot, all of one space.
        histories: one row per user and snapshot; history_row counts them in the order of `histories.table()`.

    Returns:
        The receipt, as of publish_items.

    Raises:
        SpaceMismatch: user_vectors holds two spaces.
        StageError: a vector is not fit to be published.
        ServiceError: Redis cannot be reached.
    """
    facts = offline.vector_facts(user_vectors)
    vector_plan, history_plan = user_plans(folder, facts.space_id)
    offline.write_vector_files(user_vectors, facts, vector_plan, "snapshot_at", folder)
    num_histories = offline.write_history_files(histories, history_plan)
    plans = {vector_plan: facts.rows, history_plan: num_histories}
    return _publish(config, folder, facts, plans)


def _publish(config: Features, folder: Path, facts: offline.VectorFacts, plans: dict[ViewPlan, int]) -> Outcome:
    details: dict[str, Any] = {
        "space_id": facts.space_id,
        "dim": facts.dim,
        "views": [plan.name for plan in plans],
        "offline_rows": {plan.name: rows for plan, rows in plans.items()},
        "repository": feast_home(folder).name,
    }
    if config.online:
        with running_redis(feast_home(folder).parent) as redis:
            details |= _register(folder, facts.space_id, list(plans), redis, config.write_batch_rows)
    else:
        details |= _register(folder, facts.space_id, list(plans), None, config.write_batch_rows)
    return Outcome(rows_in=facts.rows, rows_ok=facts.rows, details=details)


def _register(
    folder: Path, space_id: str, plans: Sequence[ViewPlan], redis: Redis | None, batch_rows: int
) -> dict[str, Any]:
    """Applies the definitions and, where there is a server, writes the online values."""
    home = feast_home(folder)
    write_settings(home, redis)
    with quiet_feast():
        store = open_store(home)
        apply_views(store, plans, online=redis is not None)
        details: dict[str, Any] = {"service_active": activate(store, space_id)}
        if redis is None:
            return details
        started = time.monotonic()
        details["online_rows"] = {plan.name: online.write_online(store, plan, folder, batch_rows) for plan in plans}
        details["online_seconds"] = round(time.monotonic() - started, 3)
        online.persist(redis)
        details["online_bytes_per_key"] = online.bytes_per_key(store, plans[0], redis)
        details["redis"] = redis.kind.value
    note(
        f"      {' and '.join(plan.name for plan in plans)}: {details['online_bytes_per_key']:,} bytes per key in Redis"
    )
    return details
