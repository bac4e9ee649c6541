"""Digests of what a dataset is made from besides its inputs: source files, the files settings name, shipped templates.

They tie a dataset to bytes rather than to places: a model folder that moved is the same model, and one whose weights
changed under the same name is another.
"""

import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from pipeline.packaged import packaged
from pipeline.settings import digest, identity
from pipeline.source import Source
from pipeline.storage import Workspace, file_digest, write_atomically


class ContentDigests:
    """Content digests of files, kept with size and time so that an unchanged file is read once."""

    def __init__(self, workspace: Workspace) -> None:
        """Reads what the workspace knows already."""
        self.path = workspace.root / "content_digests.json"
        self.known: dict[str, list[Any]] = {}
        if self.path.is_file():
            self.known = json.loads(self.path.read_text(encoding="utf-8"))

    def of_source(self, source: Source, tables: tuple[str, ...]) -> list[str]:
        """SHA-256 of every file behind the named tables of the source, in the order given."""
        files = [getattr(source, table).files for table in tables if hasattr(getattr(source, table, None), "files")]
        return [self._file(path) for group in files for given in group.all_paths for path in _files_below(given)]

    def of_settings(self, config: Any) -> dict[str, Any]:
        """The settings that can change the result; one that names a file or folder is the digest of its content."""
        values = identity(config)
        for setting in fields(config):
            value = getattr(config, setting.name)
            if setting.metadata.get("content") and value and Path(value).expanduser().exists():
                values[setting.name] = self.of_path(Path(value).expanduser())
        return values

    def of_packaged(self, names: tuple[str, ...]) -> list[str]:
        """SHA-256 of files that come with a package, each named `package/path`."""
        return [self.of_path(packaged(name)) for name in names]

    def of_path(self, path: Path) -> str:
        """SHA-256 of a file, or of the names and bytes below a folder, wherever it lies."""
        if path.is_file():
            return self._file(path)
        return digest([[str(inner.relative_to(path)), self._file(inner)] for inner in _files_below(path)])

    def _file(self, path: Path) -> str:
        stat, key = path.stat(), str(path.absolute())
        seen = self.known.get(key)
        if seen and seen[:2] == [stat.st_size, stat.st_mtime_ns]:
            return str(seen[2])
        self.known[key] = [stat.st_size, stat.st_mtime_ns, file_digest(path)]
        write_atomically(self.path, json.dumps(self.known).encode())
        return str(self.known[key][2])


def _files_below(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (inner for inner in sorted(path.rglob("*")) if inner.is_file() and _counts(inner.relative_to(path)))
    else:
        yield path


def _counts(relative: Path) -> bool:
    return not any(part.startswith(".") or part == "__pycache__" for part in relative.parts)
