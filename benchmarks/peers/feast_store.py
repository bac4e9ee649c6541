"""A Feast repository on a Redis server, with one view of vectors: the peer of publish.py and lookup.py."""

import contextlib
import io
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from feature_repo.definitions import ViewPlan, entities, feast_type
from feature_repo.redis_address import Redis
from feature_repo.store import quiet_feast, require_feast

YAML = """\
project: {project}
provider: local
registry: {{registry_type: sql, path: "sqlite:///{folder}/registry.db"}}
offline_store: {{type: {offline}}}
online_store: {{type: redis, skip_dedup: true, connection_string: "{address}"}}
materialization: {{online_write_batch_size: 10000}}
entity_key_serialization_version: 3
"""
# Without a batch size Feast writes the first chunk of an Arrow table and silently leaves the others.


def open_feast(home: Path, redis: Redis, project: str, offline: str, source: tuple[ViewPlan, Path]) -> Any:
    """A Feast store with a view applied.

    Args:
        home: folder of the repository, which is made.
        redis: the online store.
        project: Feast's project.
        offline: type of the offline store.
        source: the view, and the Parquet file of its rows.
    """
    require_feast()
    from feast import FeatureStore, FeatureView, Field, FileSource

    home.mkdir()
    text = YAML.format(project=project, folder=home, offline=offline, address=redis.connection_string)
    (home / "feature_store.yaml").write_text(text, encoding="utf-8")
    store = FeatureStore(repo_path=str(home))
    plan, path = source
    rows = FileSource(path=str(path), timestamp_field="event_timestamp", created_timestamp_column="created")
    fields = [Field(name=field.name, dtype=feast_type(field.type)) for field in (plan.key, *plan.features)]
    with quiet_feast():
        keyed = next(entity for entity in entities() if entity.join_key == plan.key.name)
        view = FeatureView(name=plan.name, entities=[keyed], schema=fields, source=rows, ttl=timedelta(0))
        store.apply([keyed, view])
        store.refresh_registry()
    return store


def quietly(work: Callable[[], Any]) -> Callable[[], None]:
    """Without Feast's warnings and progress bars."""

    def run() -> None:
        with quiet_feast(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            work()

    return run
