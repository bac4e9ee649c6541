"""Digests of a source's files: what ties a dataset to the bytes it was made from."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.source import Source
from pipeline.storage import Workspace, file_digest, write_atomically


class SourceDigests:
    """Content digests of source files, kept with size and time so that an unchanged file is read once."""

    def __init__(self, workspace: Workspace) -> None:
        """Reads what the workspace knows already."""
        self.path = workspace.root / "source_digests.json"
        self.known: dict[str, list[Any]] = {}
        if self.path.is_file():
            self.known = json.loads(self.path.read_text(encoding="utf-8"))

    def of(self, source: Source, tables: tuple[str, ...]) -> list[str]:
        """SHA-256 of every file behind the named tables of the source, in the order given."""
        files = [getattr(source, table).files for table in tables if hasattr(getattr(source, table, None), "files")]
        digests = [self._digest(path) for group in files for path in _files_below(group.all_paths)]
        return digests

    def _digest(self, path: Path) -> str:
        stat = path.stat()
        seen = self.known.get(str(path))
        if seen and seen[:2] == [stat.st_size, stat.st_mtime_ns]:
            return seen[2]
        self.known[str(path)] = [stat.st_size, stat.st_mtime_ns, file_digest(path)]
        write_atomically(self.path, json.dumps(self.known).encode())
        return self.known[str(path)][2]


def _files_below(paths: tuple[Path, ...]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from (inner for inner in sorted(path.rglob("*")) if inner.is_file())
        else:
            yield path
