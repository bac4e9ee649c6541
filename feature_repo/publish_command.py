"""What `msd publish` does beyond running the stage: brings back, lists, activates, rolls back, collects."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq

from feature_repo.collection import HOUR_SECONDS, collect
from feature_repo.definitions import ITEM_KEY, USER_KEY
from feature_repo.feast_format import redis_keys
from feature_repo.feature_pair import FeaturePair
from feature_repo.generations import Generation, Generations, State
from feature_repo.online_memory import MEBIBYTE
from feature_repo.online_rows import shard_files
from feature_repo.publication import bring_online
from feature_repo.repository import active_in, registered
from feature_repo.site import Site, connected, publishing
from feature_repo.store import feast_home, project_name
from feature_repo.switching import known_as, persist, switch
from pipeline.config import Publication
from pipeline.errors import StageError, UsageError
from pipeline.storage import Dataset

KEYS_AT_ONCE = 1000


@dataclass(frozen=True, kw_only=True)
class Line:
    """A generation as `--list` shows it."""

    generation: str
    state: str
    space_id: str
    made: str
    """The dataset of its receipt."""
    age: str
    left: str
    """How long ago readers left it; empty for those they have not left."""
    keys: str
    mebibytes: str


def ensure_published(config: Publication, publication: Dataset, features: Sequence[Dataset]) -> bool:
    """Brings a committed publication back to where its receipt says it is.

    Args:
        config: of the stage.
        publication: committed.
        features: of items and of users, that it was made of.

    Returns:
        True where anything had to be done: the server lacked it, or readers were pointed elsewhere.
    """
    folder = publication.folder
    home = feast_home(folder)
    if _is_there(config, folder.name, home):
        return False
    if config.online and _is_there(replace(config, activate=False), folder.name, home):
        activate(home.parent, folder.name)
        return True
    bring_online(config, folder, FeaturePair.of(features[0], features[1]))
    return True


def write_anew(config: Publication, publication: Dataset, features: Sequence[Dataset]) -> None:
    """Writes every value of a committed publication again, in place: for a server that lost or changed some of them.

    Readers are not disturbed, since the values are the same. An expiry that somebody set on a key is taken off.

    Args:
        config: of the stage.
        publication: committed.
        features: of items and of users, that it was made of.
    """
    folder = publication.folder
    with publishing(feast_home(folder)) as site:
        generations = Generations(site.client, project_name())
        site.client.delete(generations.key("shards", folder.name))
    bring_online(config, folder, FeaturePair.of(features[0], features[1]))
    with publishing(feast_home(folder)) as site:
        for path in shard_files(folder):
            _persist_keys(site, path)
        persist(site.redis)


def listed(work: Path) -> list[Line]:
    """The generations a work folder's server and registry know, the oldest first."""
    home = _published_home(work)
    known, active = registered(home)
    lines = []
    on_server = _on_server(work) if any(each.is_online for each in known) else []
    for each in on_server:
        lines.append(_line(each))
    for other in known:
        if other.generation not in {each.name for each in on_server}:
            where = "not in Redis: msd publish" if other.is_online else "offline"
            state = f"{'active, ' if other.generation == active else ''}{where}"
            made = other.publication.split("/")[0]
            shown = (other.generation, state, other.space_id, made)
            lines.append(Line(**dict(zip(_SHOWN, shown, strict=True)), age="", left="", keys="", mebibytes=""))
    return lines


def activate(work: Path, name: str, heed: Callable[[str], None] | None = None) -> str:
    """Points readers at a complete generation.

    Args:
        work: the work folder.
        name: the beginning of a generation's name, or of a space's, which means its latest complete generation.
        heed: told the generation's whole name before readers are; raises where they may not have it.

    Returns:
        The generation's name.

    Raises:
        UsageError: no generation, or more than one, is meant.
        StageError: the one meant is not complete, or of another work folder.
    """
    with publishing(_published_home(work)) as site:
        generation = _meant(name, Generations(site.client, project_name()).all())
        if heed is not None:
            heed(generation.name)
        return _switch(site, generation)


def rollback(work: Path, leaving: str = "") -> str:
    """Points readers at the generation they had before.

    Args:
        work: the work folder.
        leaving: a generation's whole name: readers are moved only where they are pointed at it, so that asking twice
            does not bring them back to it.

    Returns:
        The generation that readers have now.

    Raises:
        StageError: there is none to go back to any more.
    """
    with publishing(_published_home(work)) as site:
        known = Generations(site.client, project_name()).all()
        active = [each for each in known if each.is_active]
        if leaving and active and active[0].name != leaving:
            # A rollback that was killed may have moved the pointer alone: the registry follows it here.
            return _switch(site, active[0])
        previous = [each for each in known if each.is_previous]
        if not previous:
            raise StageError(
                "there is no generation to go back to: none was left, or its grace period is over; see: msd publish"
                " --list"
            )
        return _switch(site, previous[0])


def collect_now(work: Path, grace_hours: float) -> list[str]:
    """Removes what readers left longer ago than so many hours; returns the names of what went."""
    with publishing(_published_home(work)) as site:
        gone = collect(site, grace_hours)
        persist(site.redis)
        return gone


_SHOWN = ("generation", "state", "space_id", "made")


def _is_there(config: Publication, generation: str, home: Path) -> bool:
    known, active = known_as(home, generation), active_in(home)
    is_pointed_at = active is not None and active.generation == generation
    if known is None or (config.activate and not is_pointed_at):
        return False
    if not config.online:
        return True
    found = next((each for each in _on_server(home.parent) if each.name == generation), None)
    return found is not None and found.state is State.COMPLETE and (found.is_active or not config.activate)


def _persist_keys(site: Site, shard: Path) -> None:
    name = ITEM_KEY.name if shard.name.startswith("item") else USER_KEY.name
    ids = pq.read_table(shard, columns=[name], partitioning=None).column(name).to_pylist()
    keys = redis_keys(name, ids, project_name())
    for start in range(0, len(keys), KEYS_AT_ONCE):
        with site.client.pipeline(transaction=False) as pipe:
            for key in keys[start : start + KEYS_AT_ONCE]:
                pipe.persist(key)
            pipe.execute()


def _on_server(work: Path) -> list[Generation]:
    with connected(work) as (_, client):
        return Generations(client, project_name()).all()


def _published_home(work: Path) -> Path:
    home = work / "feast"
    if not registered(home)[0]:
        raise StageError(f"nothing is published in {work}; run: msd run publication")
    return home


def _meant(name: str, generations: Sequence[Generation]) -> Generation:
    wanted = name.lower()
    told = "; ".join(f"{each.name} of the space {each.space_id}, {each.state}" for each in generations) or "none at all"
    exactly = [each for each in generations if each.name == wanted]
    if exactly:
        return exactly[0]
    by_name = [each for each in generations if wanted and each.name.startswith(wanted)]
    of_space = [each for each in generations if wanted and each.space_id.startswith(wanted)]
    whole = [each for each in of_space if each.state is State.COMPLETE]
    if len(by_name) == 1 and not of_space:
        return by_name[0]
    if not by_name and len({each.space_id for each in of_space}) == 1:
        return (whole or of_space)[-1]
    found = "no generation or space begins" if not by_name and not of_space else "more than one begins"
    raise UsageError(f"--activate {name}: {found} with that; there are {told}")


def _switch(site: Site, generation: Generation) -> str:
    here = known_as(site.home, generation.name)
    if here is None:
        raise StageError(
            f"the generation {generation.name} was published from another work folder, whose registry knows its views;"
            " run the same command there"
        )
    switch(site.home, here, site)
    persist(site.redis)
    return generation.name


def _line(generation: Generation) -> Line:
    now = time.time()
    state = "active" if generation.is_active else "previous" if generation.is_previous else generation.state.value
    keys = generation.facts.get("keys", {})
    return Line(
        generation=generation.name,
        state=state,
        space_id=generation.space_id,
        made=str(generation.facts["publication"]).split("/")[0],
        age=_hours(now - generation.created_at),
        left="" if generation.left_at is None else _hours(now - generation.left_at),
        keys=", ".join(f"{count:,} {entity}s" for entity, count in keys.items()),
        mebibytes=f"{generation.facts.get('bytes', 0) / MEBIBYTE:,.1f}",
    )


def _hours(seconds: float) -> str:
    hours = seconds / HOUR_SECONDS
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"
