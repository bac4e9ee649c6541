"""Vectors of one space under the hash of what was read, in a folder any number of processes and machines share.

The folder holds segments: folders that are renamed into place whole and never change. The number a segment gets when it
is renamed orders them, and of two vectors under one key the older one counts, for everybody. Segments are merged, and
vectors removed, only while nobody else has the folder open. Matrices are memory-mapped: a lookup in tens of millions of
rows reads its own rows and little else.
"""

import errno
import fcntl
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.errors import BusyError
from pipeline.progress import note
from pipeline.segment import Segment, gathered, keys_beginning_with, open_segment, write_segment

KEY = np.dtype("S16")
BEGINNING = np.dtype("S8")
"""Of a key: what the column content_hash holds in hex."""
SEGMENT_NAME = re.compile(r"(\d{8})\.(\d{4})")
"""The number that orders segments, and how often they were merged or rewritten."""
MANY_SEGMENTS = 8
"""From so many on, neighbours are merged: a lookup searches each."""
MERGED_BYTES = 2**34
"""Vectors of a merged segment at most."""
MERGED_GROWTH = 4
"""A segment this many times larger than all that came after it is left as it is."""


def keys_of(texts: Iterable[bytes]) -> np.ndarray:
    """The key [N] of each text: the first 16 bytes of its SHA-256, of which content_hash shows the first eight."""
    return np.frombuffer(b"".join(hashlib.sha256(text).digest()[: KEY.itemsize] for text in texts), dtype=KEY)


def content_hashes(keys: np.ndarray) -> list[str]:
    """What the column content_hash says of these keys: 16 hex digits."""
    joined = keys.tobytes().hex()
    return [joined[start : start + KEY.itemsize] for start in range(0, len(joined), 2 * KEY.itemsize)]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a lookup found."""

    is_found_N: np.ndarray
    vectors_ND: np.ndarray
    """Float32; rows that were not found are zero."""


class VectorStore:
    """The vectors of one space, read in one way, by key. Use from one thread."""

    def __init__(self, folder: Path, dimension: int) -> None:
        """Opens the folder beside other readers and writers; waits while another process merges it.

        Args:
            folder: is made where it is not there.
            dimension: of the vectors; 0 where none is going to be looked up.
        """
        self.folder = folder
        self.dimension = dimension
        self.segments: dict[str, Segment] = {}
        self.damaged: set[str] = set()
        folder.mkdir(parents=True, exist_ok=True)
        self.lock = (folder / ".lock").open("a+")
        fcntl.flock(self.lock, fcntl.LOCK_SH)

    def find(self, keys: np.ndarray) -> Found:
        """The vectors of those keys that are there; sorted keys read the files from front to back."""
        self.refresh()
        found = Found(
            is_found_N=np.zeros(len(keys), dtype=bool),
            vectors_ND=np.zeros((len(keys), self.dimension), dtype=np.float32),
        )
        for segment in self.segments.values():
            wanted = np.flatnonzero(~found.is_found_N)
            if not len(wanted):
                break
            hits, rows = segment.search(keys[wanted])
            vectors_HD, is_whole_H = segment.read(rows)
            if not is_whole_H.all():
                self._tell(segment.folder.name, f"{(~is_whole_H).sum():,} of its vectors are not as they were written")
            places = wanted[hits[is_whole_H]]
            found.vectors_ND[places] = vectors_HD[is_whole_H]
            found.is_found_N[places] = True
        return found

    def holds(self, keys: np.ndarray) -> np.ndarray:
        """Which of the keys are there; reads no vector."""
        self.refresh()
        is_there_N = np.zeros(len(keys), dtype=bool)
        for segment in self.segments.values():
            is_there_N[segment.search(keys)[0]] = True
        return is_there_N

    def add(self, keys: np.ndarray, vectors_ND: np.ndarray) -> np.ndarray:
        """Keeps vectors; returns them as everybody finds them from now on.

        Where another process kept one under the same key in the meantime, that is the older one.

        Args:
            keys: distinct.
            vectors_ND: float32; on the disk when this returns.
        """
        if not len(keys):
            return vectors_ND
        order = np.argsort(keys)
        aside = self._aside()
        write_segment(aside, keys[order], [np.ascontiguousarray(vectors_ND[order], dtype=np.float32)])
        number = 1 + max((_number(name) for name in self._names()), default=-1)
        while not _renamed(aside, self.folder / _name(number, 0)):
            number += 1
        return self.find(keys).vectors_ND

    def num_vectors(self) -> int:
        """Rows of all segments."""
        self.refresh()
        return sum(len(segment.keys) for segment in self.segments.values())

    def compact(self, merged_bytes: int = MERGED_BYTES) -> None:
        """Merges neighbouring segments where there are many; does nothing while another process is here.

        Args:
            merged_bytes: vectors of a merged segment at most.
        """
        if len(self._names()) < MANY_SEGMENTS or not self._alone():
            return
        try:
            for group in _groups(list(self.segments.values()), merged_bytes):
                self._replace(group, [segment.all_whole() for segment in group])
        finally:
            self._beside_others()

    def remove(self, beginnings: np.ndarray) -> int:
        """Drops every vector whose key begins with one of these eight bytes; returns how many went.

        Raises:
            BusyError: another process has the store open.
        """
        if not self._alone():
            raise BusyError(f"the vectors in {self.folder} are in use by another run; wait for it to end")
        try:
            gone = 0
            for segment in list(self.segments.values()):
                is_meant_N = keys_beginning_with(segment.keys, beginnings)
                if is_meant_N.any():
                    self._replace([segment], [~is_meant_N])
                    gone += int(is_meant_N.sum())
            return gone
        finally:
            self._beside_others()

    def refresh(self) -> None:
        """Opens what others have added; a folder that is no whole segment is named and passed over."""
        opened: dict[str, Segment] = {}
        for name in self._names():
            try:
                opened[name] = self.segments.get(name) or open_segment(self.folder / name, KEY, self.dimension)
            except (FileNotFoundError, ValueError, EOFError) as error:
                self._tell(name, str(error))
        self.segments = opened

    def close(self) -> None:
        """Lets go of the files."""
        self.segments.clear()
        self.lock.close()

    def _names(self) -> list[str]:
        """Of the segments, in their order."""
        return sorted(name for name in os.listdir(self.folder) if SEGMENT_NAME.fullmatch(name))

    def _aside(self) -> Path:
        return self.folder / f".{uuid.uuid4().hex}.writing"

    def _tell(self, name: str, reason: str) -> None:
        if name not in self.damaged:
            self.damaged.add(name)
            note(f"      kept vectors: {self.folder / name} is damaged: {reason}; its texts are read again")

    def _alone(self) -> bool:
        """Whether nobody else is here, who then waits until `_beside_others`; removes what killed writers left."""
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # A refused conversion may have let go of what was held.
            fcntl.flock(self.lock, fcntl.LOCK_SH)
            return False
        self.refresh()
        for path in [*self.folder.glob(".*.writing"), *(self.folder / name for name in self._names())]:
            if path.name not in self.segments:
                shutil.rmtree(path)
        return True

    def _beside_others(self) -> None:
        fcntl.flock(self.lock, fcntl.LOCK_SH)

    def _replace(self, group: Sequence[Segment], keep: Sequence[np.ndarray]) -> None:
        """Writes what is kept of neighbours as one segment, then drops them; killed in between, both hold the same."""
        keys = np.concatenate([segment.keys[is_kept_N] for segment, is_kept_N in zip(group, keep, strict=True)])
        rows = np.concatenate([np.flatnonzero(is_kept_N) for is_kept_N in keep])
        owners = np.repeat(np.arange(len(group)), [int(is_kept_N.sum()) for is_kept_N in keep])
        # Of equal keys np.unique names the first, which is the oldest segment's.
        distinct, chosen = np.unique(keys, return_index=True)
        if len(distinct):
            aside = self._aside()
            write_segment(aside, distinct, gathered(group, owners[chosen], rows[chosen]))
            final = _name(_number(group[0].folder.name), 1 + max(_level(segment.folder.name) for segment in group))
            renamed = _renamed(aside, self.folder / final)
            assert renamed, f"{final} is there though nobody else is"
        for segment in group:
            shutil.rmtree(segment.folder)
        self.refresh()


def _number(name: str) -> int:
    """Of a segment, from its name."""
    return int(name[:8])


def _name(number: int, level: int) -> str:
    return f"{number:08d}.{level:04d}"


def _level(name: str) -> int:
    """How often a segment was merged or rewritten."""
    return int(name[9:])


def _renamed(aside: Path, final: Path) -> bool:
    """Puts a segment into place; False where another writer took that name first."""
    try:
        aside.rename(final)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    folder = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return True


def _groups(segments: Sequence[Segment], merged_bytes: int) -> list[list[Segment]]:
    """Runs of neighbours that become one segment each; their order stays, and with it whose vector counts.

    From the newest on, an older one joins unless it is much larger than all that came after it: so there are few
    segments, and a large one is copied only when a fair share of it is new.
    """
    groups: list[list[Segment]] = []
    for segment in reversed(segments):
        newer = sum(other.nbytes for other in groups[-1]) if groups else 0
        if groups and segment.nbytes <= MERGED_GROWTH * newer and segment.nbytes + newer <= merged_bytes:
            groups[-1].insert(0, segment)
        else:
            groups.append([segment])
    return [group for group in groups if len(group) > 1]
