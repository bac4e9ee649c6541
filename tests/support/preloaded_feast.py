"""What a parent of forked children imports once: Feast with its commands; not DuckDB, which starts a thread."""

import importlib

import feature_repo.publication  # noqa: F401
from feature_repo.store import require_feast

require_feast()
for name in ("feast.cli.cli", "feast.infra.online_stores.redis", "feast.infra.registry.sql"):
    importlib.import_module(name)
