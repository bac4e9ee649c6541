"""One Spark session for the room, and small worlds: files in a folder, a source that names them, stages run on them."""

import gc
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.runner import Plan, make_plan, run
from pipeline.settings import resolve
from pipeline.source import parse_source
from pipeline.storage import Workspace


class World:
    """A folder of source files and a work folder beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, content: str | bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else textwrap.dedent(content).encode())

    def plan(self, toml: str, *overrides: str, work: str = "work") -> Plan:
        source = parse_source("world", textwrap.dedent(toml), self.folder)
        return make_plan(Workspace(self.folder / work), source, resolve("tiny", overrides))

    def make(self, toml: str, *names: str, settings: tuple[str, ...] = (), work: str = "work") -> dict[str, pa.Table]:
        """Runs the stages and returns their tables, and of each the rejected rows as `<name>_rejected`."""
        plan = self.plan(toml, *settings, work=work)
        run(plan, list(names))
        tables = {}
        for name in names:
            tables[name] = plan.dataset(name).table()
            tables[f"{name}_rejected"] = rejected(plan, name)
        return tables


def rejected(plan: Plan, name: str) -> list[dict[str, Any]]:
    files = sorted((plan.dataset(name).folder / "rejected").glob("part-*.parquet"))
    return [row for path in files for row in pq.read_table(path).to_pylist()]


def jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="session")
def stopped_at_the_end() -> Iterator[None]:
    yield
    from spark_jobs.session import stop

    stop()
    gc.collect()


@pytest.fixture(scope="module")
def spark(stopped_at_the_end: None) -> Any:
    """The session of the room; another one where a whole flow, which ends Spark before models load, went before."""
    from spark_jobs.session import session

    return session()


@pytest.fixture
def world(tmp_path: Path, spark: Any) -> World:
    return World(tmp_path)
