"""Opens the Feast repository of a work directory: WORK/feast, read by any Feast client.

SQL registry (the file registry loses views under concurrent writers), DuckDB offline store (the default one drops rows
outside the TTL and takes minutes), Redis online store. Feast costs seconds to import, so it is imported here, inside
the functions, and nowhere at module level.
"""

import importlib
import importlib.util
import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError, StageError, require
from pipeline.storage import write_atomically

if TYPE_CHECKING:
    from feast import FeatureStore

    from feature_repo.redis_address import Redis

PROJECT_VARIABLE = "MSD_PROJECT"
DEFAULT_PROJECT = "msd"
_NO_SERVER = "127.0.0.1:6379,db=0"
_YAML = """\
# Written by msd on every publication; change settings through msd, not here.
project: {project}
provider: local
registry:
  registry_type: sql
  path: "sqlite:///{registry}"
  cache_ttl_seconds: 60
offline_store:
  type: duckdb
online_store:
  type: redis
  connection_string: "{connection}"
  full_scan_for_deletion: false
entity_key_serialization_version: 3
"""


def feast_home(folder: Path) -> Path:
    """WORK/feast, from the folder of any dataset (WORK/<dataset>/<fingerprint>)."""
    return folder.parents[1] / "feast"


def project_name() -> str:
    """The Feast project: $MSD_PROJECT, else `msd`.

    Raises:
        ConfigError: it is not a name Feast takes.
    """
    name = os.environ.get(PROJECT_VARIABLE) or DEFAULT_PROJECT
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_]*", name):
        raise ConfigError(
            f"{PROJECT_VARIABLE} is {name!r}; wanted letters, digits and underscores, not beginning with an underscore"
        )
    return name


def write_settings(home: Path, redis: "Redis | None") -> None:
    """Writes WORK/feast/feature_store.yaml.

    Args:
        home: WORK/feast, made where it is not there.
        redis: the running server; None keeps the address the file has.
    """
    home.mkdir(parents=True, exist_ok=True)
    path = home / "feature_store.yaml"
    connection = redis.connection_string if redis else _kept_connection(path)
    text = _YAML.format(project=project_name(), registry=home.resolve() / "registry.db", connection=connection)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_atomically(path, text.encode())


def open_store(home: Path) -> "FeatureStore":
    """The Feast store of a work directory.

    Args:
        home: WORK/feast with its feature_store.yaml.

    Raises:
        StageError: nothing has been published there yet.
        MissingExtra: Feast is not installed.
    """
    if not (home / "feature_store.yaml").is_file():
        raise StageError(f"there is no Feast repository at {home}; run: msd run publication")
    require_feast()
    from feast import FeatureStore

    return FeatureStore(repo_path=str(home))


def require_feast() -> None:
    """Imports Feast with its usage statistics off, its log quiet and the process's warning filters as they were."""
    os.environ.setdefault("FEAST_USAGE", "False")
    logging.getLogger("feast").setLevel(logging.ERROR)
    with warnings.catch_warnings(), _without_typeguard():
        warnings.simplefilter("ignore")
        require("feast", needed_by="the feature store", extra="store")


@contextmanager
def _without_typeguard() -> Iterator[None]:
    """Makes the decorator `typechecked` a no-op, which it also is under `python -O`.

    It recompiles 242 methods of Feast, each from the source of its whole file: 3 of the 5 CPU seconds of the import.
    """
    if importlib.util.find_spec("typeguard") is None:
        yield
        return
    typeguard: Any = importlib.import_module("typeguard")
    checked = typeguard.typechecked
    typeguard.typechecked = _unchanged
    try:
        yield
    finally:
        typeguard.typechecked = checked


def _unchanged(target: Any = None, **options: Any) -> Any:
    """A decorator with or without options that decorates nothing."""
    return _unchanged if target is None else target


@contextmanager
def quiet_feast() -> Iterator[None]:
    """Keeps deprecations inside Feast and ibis from the user, who can do nothing about them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _kept_connection(path: Path) -> str:
    if path.is_file():
        found = re.search(r'connection_string: "(.*)"', path.read_text(encoding="utf-8"))
        if found:
            return found.group(1)
    return _NO_SERVER
