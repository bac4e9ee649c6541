"""Ids → the active generation's vectors, hundreds in one round trip; without Feast, whose import alone takes seconds.

The request is one HGET per id, joined from bytes; the replies of equal size are taken apart by strides. The pointer to
the active generation is read behind them: where it is still the one the names were taken from, every value of the
answer belongs to that generation; where it is not, names are read anew and the request is repeated. So an answer is
always of one generation, and users and items of one space.

One server or one shard behind a proxy; Redis Cluster's redirections are not followed. A lookup belongs to one thread.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from feature_repo.definitions import ITEM_KEY, ITEM_VECTORS, USER_KEY, USER_VECTORS, view_name
from feature_repo.feast_format import field_name
from feature_repo.pointer import Pointer, basis_key, pointer_key
from feature_repo.redis_link import TIMEOUT_SECONDS, RedisLink, link
from feature_repo.redis_server import running_redis
from feature_repo.registry import check_spaces
from feature_repo.resp import Reply, command
from feature_repo.store import project_name
from feature_repo.vector_codec import Codec
from feature_repo.vector_requests import VectorRequest
from pipeline.errors import ServiceError, SpaceMismatch, StageError

# N ids, D dimensions of the space

Entity: TypeAlias = Literal["item", "user"]
Found: TypeAlias = tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]
"""float32 [N, D], zero where there is no vector, and the mask [N] of those that have one."""
OnMiss: TypeAlias = Callable[[Pointer, Entity, Sequence[str]], Found]
_ATTEMPTS = 3
_KEYS = {"item": ITEM_KEY.name, "user": USER_KEY.name}
_KINDS = {"item": ITEM_VECTORS, "user": USER_VECTORS}


@contextmanager
def vector_lookup(
    work: Path,
    space_id: str | None = None,
    on_miss: OnMiss | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> "Iterator[VectorLookup]":
    """A lookup on the active generation, its Redis running for as long as the block does.

    Args:
        work: the work directory, whose own server is used where REDIS_URL is not set.
        space_id: the space wanted; None takes the active generation's.
        on_miss: see VectorLookup.
        timeout_seconds: how long Redis may be silent; a lookup that failed for it must be opened anew.

    Raises:
        StageError: nothing is published.
        SpaceMismatch: as of VectorLookup.
        ServiceError: Redis cannot be reached.
    """
    if not os.environ.get("REDIS_URL") and not (work / "redis").is_dir():
        raise StageError(f"nothing is published in {work}; run: msd run publication")
    with running_redis(work) as redis, link(redis, timeout_seconds) as opened:
        yield VectorLookup(opened, project_name(), space_id, on_miss)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Names:
    """What requests are made of, in one generation."""

    pointer: Pointer
    codec: Codec
    requests: dict[str, VectorRequest]
    stored: bytes
    """The pointer as it stands in Redis."""


class VectorLookup:
    """Reads vectors over one connection; `vector_lookup` opens one."""

    def __init__(
        self, opened: RedisLink, project: str, space_id: str | None = None, on_miss: OnMiss | None = None
    ) -> None:
        """Reads which generation is active.

        Args:
            opened: to the server.
            project: Feast's project.
            space_id: the space wanted; None takes the active generation's.
            on_miss: asked for the vectors of ids that are not online, such as `PublishedVectors`; what it gives is
                rounded as the codec does, so that a vector is the same from either place.

        Raises:
            StageError: nothing is published.
            SpaceMismatch: the active generation is of another space than wanted, or its item and user vectors are of
                two.
        """
        self._link, self._project = opened, project
        self._wanted_space, self._on_miss = space_id, on_miss
        self._names = self._read_names()

    @property
    def pointer(self) -> Pointer:
        """The generation of the latest answer."""
        return self._names.pointer

    @property
    def space_id(self) -> str:
        """Of the latest answer's vectors."""
        return self._names.pointer.space_id

    def lookup(self, entity: Entity, ids: Sequence[str]) -> Found:
        """The vectors of some items or users.

        Args:
            entity: item or user.
            ids: any number, in any order, the same one more than once if need be.

        Raises:
            ServiceError: Redis fails, or holds something that is no vector of the generation.
            StageError: nothing is published any more.
            SpaceMismatch: a generation of another space than wanted has become active.
        """
        return self._look_up([(entity, ids)])[0]

    def lookup_both(self, user_ids: Sequence[str], item_ids: Sequence[str]) -> tuple[Found, Found]:
        """The vectors of users and of items, of one generation and in one round trip: see lookup."""
        users, items = self._look_up([("user", user_ids), ("item", item_ids)])
        return users, items

    def _look_up(self, wanted: Sequence[tuple[Entity, Sequence[str]]]) -> list[Found]:
        for _ in range(_ATTEMPTS):
            names = self._names
            requests = [names.requests[entity].commands(ids) for entity, ids in wanted]
            received = self._link.fetch(b"".join([*requests, command("GET", pointer_key(self._project))]))
            tail = b"$%d\r\n%b\r\n" % (len(names.stored), names.stored)
            if received.endswith(tail):
                return self._decoded(names, wanted, received)
            self._names = self._read_names()
        raise ServiceError(
            f"the active generation changed {_ATTEMPTS} times during one request; look for publications that activate"
            " each other's space: msd publish --help"
        )

    def _decoded(
        self, names: _Names, wanted: Sequence[tuple[Entity, Sequence[str]]], received: bytearray
    ) -> list[Found]:
        found = []
        start = 0
        for entity, ids in wanted:
            payload_NB, found_N, start = names.requests[entity].answers(received, start, ids)
            vectors_ND = names.codec.decode(payload_NB)
            if len(vectors_ND) < len(ids):
                spread_ND = np.zeros((len(ids), names.codec.dim), dtype=np.float32)
                spread_ND[found_N] = vectors_ND
                vectors_ND = spread_ND
                self._fill(names, entity, ids, (vectors_ND, found_N))
            found.append((vectors_ND, found_N))
        return found

    def _fill(self, names: _Names, entity: Entity, ids: Sequence[str], found: Found) -> None:
        if self._on_miss is None:
            return
        vectors_ND, found_N = found
        missing = np.flatnonzero(~found_N)
        others_ND, has_other_N = self._on_miss(names.pointer, entity, [ids[row] for row in missing])
        rows = missing[has_other_N]
        if len(rows):
            vectors_ND[rows] = names.codec.decode(names.codec.encode(others_ND[has_other_N]).payload_NB)
            found_N[rows] = True

    def _read_names(self) -> _Names:
        stored = self._get(pointer_key(self._project))
        if stored is None:
            raise StageError(
                f"nothing is published for the project {self._project} on {self._link.redis.shown};"
                " run: msd run publication"
            )
        pointer = Pointer.from_bytes(stored)
        _check_space(pointer, self._wanted_space)
        codec = pointer.open_codec(self._get(basis_key(self._project, pointer.generation)) or b"")
        requests = {
            entity: VectorRequest(key, field_name(pointer.views[_KINDS[entity]], "vector"), self._project, codec)
            for entity, key in _KEYS.items()
        }
        return _Names(pointer=pointer, codec=codec, requests=requests, stored=stored)

    def _get(self, key: str) -> bytes | None:
        reply: Reply = self._link.ask("GET", key)
        assert reply is None or isinstance(reply, bytes), "GET answers with bytes or nothing"
        return reply


def _check_space(pointer: Pointer, wanted: str | None) -> None:
    if wanted:
        check_spaces(wanted, {"the active generation": pointer.space_id})
    for kind in _KINDS.values():
        expected = view_name(kind, pointer.space_id, pointer.generation)
        if pointer.views[kind] != expected:
            raise SpaceMismatch(
                f"the active generation names {pointer.views[kind]} for its {kind}, wanted {expected}, of its own"
                " space; publish again: msd run publication"
            )
