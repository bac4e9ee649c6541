"""What was dear to make, kept by the hash of all it depends on, across runs, presets and days.

A dataset's folder stands for one set of inputs and settings; the store stands below all of them, so that a changed
catalogue or a new preset pays for what is new in it and for nothing else. A value is on disk before `put` returns, so
that a killed run loses what was under way and nothing that was finished.

On one machine any number of processes share one SQLite file. Workers on other machines (Spark executors on a shared
folder) read that file, which nobody changes meanwhile, and append what they make to a log of their own (`inbox`), which
the next plain opening folds in.
"""

import fcntl
import json
import os
import sqlite3
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

INDEX = "index.sqlite"
INBOX = "inbox"
OPENING = "opening.lock"
KEYS_PER_QUERY = 500
BUSY_SECONDS = 120.0

Value = Mapping[str, Any]
"""JSON-able."""


class ContentStore:
    """Values by content key. Use from one thread; close it, or use it as a context manager."""

    def __init__(self, folder: Path, *, inbox: str = "") -> None:
        """Opens the store, making it where it is not there.

        Args:
            folder: the store's own.
            inbox: a name for this worker's share of the work: reads the index without locking it and appends to a log,
                beside a driver that keeps the index still. What an earlier attempt at the same share left is read too.
        """
        self.folder = folder
        self.log: TextIO | None = None
        self.own: dict[str, Value] = {}
        folder.mkdir(parents=True, exist_ok=True)
        if inbox:
            self.index = _read_only(folder / INDEX)
            self.own = _left_by_earlier_attempts(folder / INBOX, inbox)
            self.log = _new_log(folder / INBOX, inbox)
        else:
            self.index = _writable(folder / INDEX)
            _fold(folder / INBOX, self.index)

    def get_many(self, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The values of those keys that are there."""
        found: dict[str, dict[str, Any]] = {}
        for start in range(0, len(keys), KEYS_PER_QUERY):
            part = keys[start : start + KEYS_PER_QUERY]
            marks = ",".join("?" * len(part))
            for key, value in self.index.execute(f"SELECT key, value FROM kept WHERE key IN ({marks})", part):
                found[key] = json.loads(value)
        if self.log is not None:
            found.update({key: dict(self.own[key]) for key in keys if key in self.own})
        return found

    def put(self, key: str, value: Value) -> None:
        """Keeps a value; the first one under a key stays."""
        if self.log is not None:
            self.own.setdefault(key, value)
            self.log.write(json.dumps([key, value], ensure_ascii=False) + "\n")
            self.log.flush()
        else:
            self.index.execute(_INSERT, (key, json.dumps(value, ensure_ascii=False)))

    def remove(self, keys: Collection[str]) -> int:
        """Forgets those values, on disk too: their bytes are overwritten. Not in an inbox.

        Returns:
            How many were there.
        """
        assert self.log is None, "a worker beside others adds and never removes"
        self.index.execute("PRAGMA secure_delete = ON")
        marked = [(key,) for key in keys]
        before = self.num_values()
        self.index.execute("BEGIN IMMEDIATE")
        self.index.executemany("DELETE FROM kept WHERE key = ?", marked)
        self.index.execute("COMMIT")
        # The write-ahead log still holds the pages as they were.
        self.index.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return before - self.num_values()

    def num_values(self) -> int:
        """How many values the index holds."""
        return int(self.index.execute("SELECT count(*) FROM kept").fetchone()[0])

    def note(self, name: str, value: Value) -> None:
        """Keeps a fact about the work itself under a name, the latest one winning; not in an inbox."""
        if self.log is None:
            self.index.execute("INSERT OR REPLACE INTO noted VALUES (?, ?)", (name, json.dumps(value)))

    def noted(self, name: str) -> dict[str, Any] | None:
        """What `note` kept."""
        row = self.index.execute("SELECT value FROM noted WHERE name = ?", (name,)).fetchone()
        return json.loads(row[0]) if row else None

    def close(self) -> None:
        """Lets go of the files; the index is whole in one file afterwards, where nobody else holds it."""
        if self.log is not None:
            self.log.close()
        self.index.close()

    def __enter__(self) -> "ContentStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_INSERT = "INSERT OR IGNORE INTO kept VALUES (?, ?)"


def _writable(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    # SQLite waits for a lock everywhere but where it turns a new file to a write-ahead log: of two that do, one fails.
    with path.with_name(OPENING).open("a") as opening:
        fcntl.flock(opening, fcntl.LOCK_EX)
        connection.execute("PRAGMA journal_mode = WAL")
        # A write is in the log file when `put` returns: it outlives the process, if not a power cut in the same second.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("CREATE TABLE IF NOT EXISTS kept (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID")
        connection.execute("CREATE TABLE IF NOT EXISTS noted (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
    return connection


def _read_only(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        _writable(path).close()
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)


def _left_by_earlier_attempts(folder: Path, name: str) -> dict[str, Value]:
    left: dict[str, Value] = {}
    for path in sorted(folder.glob(f"{name}~*.jsonl")):
        with path.open(encoding="utf-8", errors="replace") as log:
            for key, value in _entries(log):
                left.setdefault(key, json.loads(value))
    return left


def _new_log(folder: Path, name: str) -> TextIO:
    """A log nobody else writes to, held so that it is not folded in while it grows."""
    folder.mkdir(parents=True, exist_ok=True)
    log = (folder / f"{name}~{uuid.uuid4().hex}.jsonl").open("a", encoding="utf-8")
    fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return log


def _fold(folder: Path, index: sqlite3.Connection) -> None:
    """Moves finished and abandoned logs into the index; doing it twice changes nothing."""
    for path in sorted(folder.glob("*.jsonl")) if folder.is_dir() else []:
        with _held(path) as log:
            if log is None:
                continue
            index.execute("BEGIN IMMEDIATE")
            index.executemany(_INSERT, _entries(log))
            index.execute("COMMIT")
            path.unlink(missing_ok=True)


@contextmanager
def _held(path: Path) -> Iterator[TextIO | None]:
    """The log, or None where its writer is still at work or another process has folded it."""
    try:
        log = path.open("r+", encoding="utf-8", errors="replace")
    except FileNotFoundError:
        yield None
        return
    with log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield log if os.fstat(log.fileno()).st_nlink else None


def _entries(log: TextIO) -> Iterator[tuple[str, str]]:
    """Key and value of each whole line; a killed writer leaves its last line torn."""
    for line in log:
        if line.endswith("\n"):
            key, value = json.loads(line)
            yield key, json.dumps(value, ensure_ascii=False)
