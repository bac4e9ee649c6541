"""One generation of features: item_features and user_features → Feast's registry and Redis, and a receipt.

Order matters: the registry points at the files first, then Redis is written and read back, then readers are pointed at
the generation; the receipt is committed by the runner last.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from feature_repo import online
from feature_repo.definitions import ViewPlan, item_plans, user_plans
from feature_repo.redis_address import Redis
from feature_repo.redis_server import running_redis
from feature_repo.registry import activate, apply_views, check_spaces
from feature_repo.store import feast_home, open_store, quiet_feast, write_settings
from pipeline.config import Publication
from pipeline.storage import Dataset, Outcome


def publish(config: Publication, folder: Path, item_features: Dataset, user_features: Dataset) -> Outcome:
    """Publishes one generation.

    Args:
        config: what goes online and how.
        folder: of the dataset publication, whose fingerprint names the generation.
        item_features: of the same space as user_features.
        user_features: vectors, histories and statistics of users.

    Returns:
        The receipt: rows counted in keys that went online.

    Raises:
        SpaceMismatch: the two are of different spaces.
        ServiceError: Redis cannot be reached, or gives back something else than was written.
    """
    space_id = item_features.details["space_id"]
    check_spaces(space_id, {user_features.name: user_features.details["space_id"]})
    generation = folder.name
    plans = [
        *item_plans(item_features.folder, space_id, generation),
        *user_plans(user_features.folder, space_id, generation),
    ]
    if config.online:
        with running_redis(feast_home(folder).parent) as redis:
            return _publish(config, folder, space_id, plans, redis)
    return _publish(config, folder, space_id, plans, None)


def publish_tuned(
    config: Publication, folder: Path, tuned_item_features: Dataset, tuned_user_features: Dataset
) -> Outcome:
    """The same of the tuned student's space."""
    return publish(config, folder, tuned_item_features, tuned_user_features)


def _publish(
    config: Publication, folder: Path, space_id: str, plans: Sequence[ViewPlan], redis: Redis | None
) -> Outcome:
    home = feast_home(folder)
    write_settings(home, redis)
    details: dict[str, Any] = {"space_id": space_id, "generation": folder.name, "views": [plan.name for plan in plans]}
    with quiet_feast():
        store = open_store(home)
        apply_views(store, plans, online=redis is not None)
        if redis is not None:
            started = time.monotonic()
            details["online_rows"] = {plan.name: online.write_online(store, plan, config.shard_rows) for plan in plans}
            details["online_seconds"] = round(time.monotonic() - started, 3)
            online.persist(redis)
            details["online_bytes_per_key"] = online.bytes_per_key(store, plans[0], redis)
            details["redis"] = redis.kind.value
        if config.activate:
            activate(store, [plan.name for plan in plans])
    keys = sum(details.get("online_rows", {}).values())
    return Outcome(rows_in=keys, rows_ok=keys, details=details)
