"""Which generation readers are pointed at: the pointer in Redis first, then Feast's service `ctr`.

Lookups follow the pointer, which moves in one step. A Feast client follows the service, one row of the registry that
moves right after it; between the two it reads the generation before, whole and still there.
"""

from collections.abc import Sequence
from pathlib import Path

from feature_repo.definitions import ViewPlan
from feature_repo.generations import Generations
from feature_repo.online_rows import TIME, duckdb_session, entity_of, files_of, shard_files
from feature_repo.redis_address import Redis, RedisKind, connect
from feature_repo.registry import apply_views, note_written, point_service
from feature_repo.repository import Registered, add, keep, registered
from feature_repo.site import Site
from feature_repo.store import open_store, project_name, quiet_feast, write_settings


def register(home: Path, generation: Registered, redis: Redis | None) -> None:
    """Puts a generation's views into Feast's registry.

    Args:
        home: WORK/feast.
        generation: what is registered.
        redis: the running server; None leaves the online store's address as it is.
    """
    write_settings(home, redis)
    with quiet_feast():
        apply_views(open_store(home), generation.plans(home.parent), online=generation.is_online)
    add(home, generation)


def switch(home: Path, generation: Registered, site: Site | None) -> None:
    """Points readers at a generation that the registry knows.

    Args:
        home: WORK/feast.
        generation: to be read from now on.
        site: the server; None for a generation that is not online.

    Raises:
        StageError: it is not complete.
        BusyError: the lock went to another publisher.
    """
    if site is not None:
        Generations(site.client, project_name()).activate(generation.generation, site.lock)
    keep(home, registered(home)[0], generation.generation)
    with quiet_feast():
        point_service(open_store(home), [plan.name for plan in generation.plans(home.parent)])


def note_intervals(home: Path, plans: Sequence[ViewPlan], folder: Path) -> None:
    """Tells the registry which stretch of time each view's online values are of.

    Args:
        home: WORK/feast.
        plans: the views of a generation.
        folder: of the publication.
    """
    intervals = {}
    with duckdb_session(folder) as session:
        for plan in plans:
            files = [files_of(path) for path in shard_files(folder, entity_of(plan))]
            column = f'"{plan.tags["kind"]}.{TIME}"'
            if files:
                table = session.execute(f"SELECT min({column}) a, max({column}) b FROM read_parquet(?)", [files])
                first, last = (each[0].as_py() for each in table.to_arrow_table().columns)
                if first is not None:
                    intervals[plan.name] = (first, last)
    with quiet_feast():
        note_written(open_store(home), intervals)


def persist(redis: Redis) -> None:
    """Has a work directory's own server write its data to disk, so that the receipt never outlives the publication."""
    if redis.kind is RedisKind.OWN:
        with connect(redis) as client:
            client.save()


def known_as(home: Path, name: str) -> Registered | None:
    """The generation of that name in a work folder's registry; None where there is none."""
    return next((each for each in registered(home)[0] if each.generation == name), None)
