"""Everything a publication finds out before it touches a server: its verdicts are kept in checks.json.

Besides the vectors themselves (vector_checks): how much of the catalogue has one, and which keys of the active
generation are gone, since what readers no longer find should surprise nobody.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feature_repo.definitions import ITEM_KEY, ITEM_STATS, USER_HISTORIES, USER_KEY, USER_STATS
from feature_repo.feature_pair import FeaturePair
from feature_repo.offline import NAMED_ROWS, ROWS_FILE
from feature_repo.online_rows import duckdb_session, files_of
from feature_repo.repository import Registered, active_in
from feature_repo.store import feast_home
from feature_repo.vector_checks import Table, check_coverage, check_vectors
from pipeline.config import Publication
from pipeline.progress import note
from pipeline.storage import write_atomically

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

CHECKS_FILE = "checks.json"


def check_features(pair: FeaturePair, config: Publication, folder: Path) -> dict[str, Any]:
    """Judges what is to be published against itself and against what readers have.

    Args:
        pair: the features.
        config: the limits.
        folder: of the publication; gets checks.json.

    Returns:
        The same findings: by dataset, and `coverage`, `removed`.

    Raises:
        StageError: a limit is passed; nothing is published then.
    """
    found = judge_features(pair, config, folder)
    write_atomically(folder / CHECKS_FILE, json.dumps(found, indent=1).encode())
    return found


def judge_features(pair: FeaturePair, config: Publication, folder: Path) -> dict[str, Any]:
    """The same, with nothing written: arguments, findings and errors as of check_features."""
    work = folder.parents[1]
    active = active_in(feast_home(folder))
    if active is not None and active.generation == folder.name:
        active = None
    items, users = _tables(pair, active, work)
    with duckdb_session(items.folder) as session:
        found = {
            items.dataset: check_vectors(session, items, config),
            users.dataset: check_vectors(session, users, config),
            "coverage": _coverage(session, pair, config),
        }
        if active is not None:
            found["removed"] = {table.key: _removed(session, table) for table in (items, users)}
    if active is not None:
        _tell(found, active)
    return found


def _tables(pair: FeaturePair, active: Registered | None, work: Path) -> tuple[Table, Table]:
    before = {ITEM_KEY.name: active.items, USER_KEY.name: active.users} if active else {}
    made = []
    for key, features in ((ITEM_KEY.name, pair.items), (USER_KEY.name, pair.users)):
        active_folder = work / before[key] if before else None
        made.append(
            Table(
                dataset=features.name,
                key=key,
                folder=features.folder,
                space_id=pair.space_id,
                active_folder=active_folder if active_folder and (active_folder / ROWS_FILE).is_file() else None,
                active_space_id=active.space_id if active else "",
            )
        )
    return made[0], made[1]


def _coverage(session: "DuckDBPyConnection", pair: FeaturePair, config: Publication) -> dict[str, Any]:
    def distinct(path: Path, key: str) -> int:
        query = f"SELECT count(DISTINCT {key}) FROM read_parquet(?) WHERE {key} <> ''"
        row = session.execute(query, [files_of(path)]).fetchone()
        return int(row[0]) if row else 0

    items = distinct(pair.items.folder / ROWS_FILE, ITEM_KEY.name)
    catalogue = distinct(pair.items.folder / ITEM_STATS, ITEM_KEY.name)
    return {
        "items": check_coverage(pair.items.name, items, catalogue, config),
        "users_with_vector": distinct(pair.users.folder / ROWS_FILE, USER_KEY.name),
        "users_with_history": distinct(pair.users.folder / USER_HISTORIES, USER_KEY.name),
        "users": distinct(pair.users.folder / USER_STATS, USER_KEY.name),
    }


def _removed(session: "DuckDBPyConnection", table: Table) -> dict[str, Any]:
    """Keys with a vector in the active generation and none in this one."""
    if table.active_folder is None:
        return {"count": None, "some": []}
    gone = session.execute(
        f"""
        SELECT DISTINCT {table.key} FROM read_parquet(?) WHERE {table.key} <> '' AND {table.key} NOT IN (
            SELECT {table.key} FROM read_parquet(?)
        ) ORDER BY 1
        """,
        [files_of(table.active_folder / ROWS_FILE), files_of(table.folder / ROWS_FILE)],
    )
    keys = gone.to_arrow_table().column(0)
    # The receipt names no users.
    some = keys.slice(0, NAMED_ROWS).to_pylist() if table.key == ITEM_KEY.name else []
    return {"count": len(keys), "some": some}


def _tell(found: dict[str, Any], active: Registered) -> None:
    """One line of what differs from what readers have."""
    gone = {key: told["count"] for key, told in found["removed"].items() if told["count"]}
    if gone:
        told = ", ".join(f"{count:,} of {key}" for key, count in gone.items())
        note(f"  gone since the generation {active.generation}: {told}")
