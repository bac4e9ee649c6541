"""Generations in Redis: a record each, the pointer that readers follow, and its move as one atomic step.

A generation's values lie in hash fields of its own, so that readers of the active one never see another being written.
The keys of a project, whose braces keep them on one node:

- `msd:{P}:active`, `msd:{P}:previous`   the pointer readers follow, and the one before it
- `msd:{P}:generations`                  all generations, a sorted set by the time they were begun
- `msd:{P}:generation:<G>`               one of them: state, space, facts, pointer, when readers left it
- `msd:{P}:shards:<G>`                   shards written so far: they lie beside the data, so that a server that lost
                                         data has lost the marks of it as well
- `msd:{P}:basis:<G>`                    the codec's basis
- `msd:{P}:publisher`                    the lock (publisher_lock)
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from feature_repo.publisher_lock import PublisherLock
from pipeline.errors import BusyError, StageError

if TYPE_CHECKING:
    from redis import Redis as Client


class State(StrEnum):
    """How far a generation is."""

    WRITING = "writing"
    COMPLETE = "complete"
    COLLECTING = "collecting"


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What Redis knows of a generation."""

    name: str
    """The publication's fingerprint."""
    space_id: str
    state: State
    created_at: float
    """Epoch seconds."""
    left_at: float | None
    """When readers were pointed elsewhere, or a newer one was made that was to replace it unread; epoch seconds."""
    is_active: bool
    is_previous: bool
    token: str
    """Digest of what is written: the rows chosen and the codec."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """`publication` (its dataset and folder), `views`, and once complete `keys` and `bytes`."""


class Generations:
    """The generations of one project on one server."""

    def __init__(self, client: "Client", project: str) -> None:
        """Nothing is read yet.

        Args:
            client: of the server.
            project: the Feast project.
        """
        self.client: Any = client
        self.project = project

    def key(self, *parts: str) -> str:
        """A key of the project's own."""
        return ":".join((f"msd:{{{self.project}}}", *parts))

    def all(self) -> list[Generation]:
        """Every generation, the oldest first."""
        names = [name.decode() for name in self.client.zrange(self.key("generations"), 0, -1)]
        pointers = [_name_in(self.client.get(self.key(which))) for which in ("active", "previous")]
        found = []
        for name in names:
            stored = {k.decode(): v.decode() for k, v in self.client.hgetall(self.key("generation", name)).items()}
            if stored:
                found.append(_generation(name, stored, pointers))
        return found

    def get(self, name: str) -> Generation | None:
        """One of them."""
        return next((each for each in self.all() if each.name == name), None)

    def active(self) -> Generation | None:
        """The one readers are pointed at."""
        return next((each for each in self.all() if each.is_active), None)

    def begin(self, name: str, space_id: str, token: str, facts: Mapping[str, Any]) -> None:
        """Opens the record of a generation, or leaves it as it is where the same one was begun before."""
        fields = {"space_id": space_id, "token": token, "facts": json.dumps(facts)}
        now = f"{time.time():.3f}"
        with self.client.pipeline(transaction=True) as pipe:
            for field_name, value in fields.items():
                pipe.hset(self.key("generation", name), field_name, value)
            pipe.hsetnx(self.key("generation", name), "state", State.WRITING.value)
            pipe.hsetnx(self.key("generation", name), "created_at", now)
            pipe.zadd(self.key("generations"), {name: float(now)}, nx=True)
            pipe.execute()

    def written_shards(self, name: str) -> set[int]:
        """Numbers of the shards that are there."""
        return {int(number) for number in self.client.smembers(self.key("shards", name))}

    def mark_written(self, name: str, number: int) -> None:
        """Says that a shard is there; after its values, over the same server."""
        self.client.sadd(self.key("shards", name), number)

    def complete(self, name: str, pointer: bytes, basis: bytes, facts: Mapping[str, Any]) -> None:
        """Closes the record; from here on the generation may be activated.

        Args:
            name: of the generation.
            pointer: what readers are told when it is active (Pointer.to_bytes).
            basis: of the codec; empty where it has none.
            facts: see Generation.facts.
        """
        with self.client.pipeline(transaction=True) as pipe:
            if basis:
                pipe.set(self.key("basis", name), basis)
            stored = {"state": State.COMPLETE.value, "pointer": pointer, "facts": json.dumps(facts)}
            pipe.hset(self.key("generation", name), mapping=stored)
            pipe.execute()

    def replaces(self, names: list[str]) -> None:
        """Begins the grace period of generations that nobody ever read, since another has come in their place."""
        for name in names:
            self.client.hsetnx(self.key("generation", name), "left_at", f"{time.time():.3f}")

    def activate(self, name: str, lock: PublisherLock) -> None:
        """Points readers at a complete generation, in one step; the one they leave can be gone back to.

        Raises:
            StageError: the generation is not there or not complete.
            BusyError: the lock is no longer ours.
        """
        keys = (lock.key, self.key("generation", name), self.key("active"), self.key("previous"))
        arguments = (lock.value, name, f"{time.time():.3f}", self.key("generation", ""))
        _judge(self._run(_ACTIVATE, keys, arguments), name)

    def doom(self, name: str, lock: PublisherLock) -> None:
        """Takes a generation out of reach of activation, so that its values may be deleted.

        Raises:
            StageError: it is the active one.
            BusyError: the lock is no longer ours.
        """
        keys = (lock.key, self.key("generation", name), self.key("active"), self.key("previous"))
        _judge(self._run(_DOOM, keys, (lock.value, name)), name)

    def forget(self, name: str) -> None:
        """Removes the record of a generation whose values are gone."""
        with self.client.pipeline(transaction=True) as pipe:
            pipe.delete(*(self.key(kind, name) for kind in ("generation", "shards", "basis")))
            pipe.zrem(self.key("generations"), name)
            pipe.execute()

    def _run(self, script: str, keys: tuple[str, ...], arguments: tuple[str, ...]) -> str:
        answer: Any = self.client.eval(script, len(keys), *keys, *arguments)
        return answer.decode()


_ACTIVATE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'lost' end
if redis.call('HGET', KEYS[2], 'state') ~= 'complete' then return 'incomplete' end
local pointer = redis.call('HGET', KEYS[2], 'pointer')
local active = redis.call('GET', KEYS[3])
if active then
  local left = cjson.decode(active)['generation']
  if left ~= ARGV[2] then
    redis.call('SET', KEYS[4], active)
    if redis.call('EXISTS', ARGV[4] .. left) == 1 then
      redis.call('HSET', ARGV[4] .. left, 'left_at', ARGV[3])
    end
  end
end
redis.call('HDEL', KEYS[2], 'left_at')
redis.call('SET', KEYS[3], pointer)
return 'done'
"""
_DOOM = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'lost' end
local active = redis.call('GET', KEYS[3])
if active and cjson.decode(active)['generation'] == ARGV[2] then return 'active' end
local previous = redis.call('GET', KEYS[4])
if previous and cjson.decode(previous)['generation'] == ARGV[2] then redis.call('DEL', KEYS[4]) end
if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('HSET', KEYS[2], 'state', 'collecting') end
return 'done'
"""


def _judge(answer: str, name: str) -> None:
    if answer == "lost":
        raise BusyError(
            "the publisher's lock went to another publisher while this one stood still; readers stay where they are;"
            " run the same command again"
        )
    if answer == "incomplete":
        raise StageError(
            f"the generation {name} is not complete, and readers stay where they are; see: msd publish --list; to"
            " finish it: msd publish"
        )
    if answer == "active":
        raise StageError(f"the generation {name} is what readers are pointed at; activate another one first")
    assert answer == "done", answer


def _name_in(pointer: bytes | None) -> str:
    return str(json.loads(pointer)["generation"]) if pointer else ""


def _generation(name: str, stored: Mapping[str, str], pointers: list[str]) -> Generation:
    return Generation(
        name=name,
        space_id=stored["space_id"],
        state=State(stored["state"]),
        created_at=float(stored["created_at"]),
        left_at=float(stored["left_at"]) if "left_at" in stored else None,
        is_active=name == pointers[0],
        is_previous=name == pointers[1],
        token=stored["token"],
        facts=json.loads(stored["facts"]),
    )
