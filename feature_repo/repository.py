"""The generations of a work folder as Feast objects, for any Feast repository: `globals().update(objects(WORK))`.

WORK/feast/generations.json says which generations this work folder has registered and which one is active; the objects
are made from it alone, so that `feast apply` in WORK/feast finds everything it finds in the registry and changes
nothing. A repository of somebody's own gets the same entities, views and service beside its own.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from feature_repo.definitions import ViewPlan, coded, entities, feature_service, feature_view, item_plans, user_plans
from feature_repo.vector_codec import Codec
from pipeline.errors import StageError
from pipeline.storage import write_atomically

KNOWN_FILE = "generations.json"
REPOSITORY_FILE = "features.py"
_REPOSITORY = '''\
"""Written by msd: what this folder's registry holds, so that Feast's own commands see it."""

from pathlib import Path

from feature_repo.repository import objects

globals().update(objects(Path(__file__).resolve().parents[1]))
'''


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A generation in the registry of a work folder."""

    generation: str
    space_id: str
    items: str
    """Folder of item_features below the work folder, such as item_features/<fingerprint>."""
    users: str
    publication: str
    """The publication's own folder, likewise."""
    is_online: bool
    codec: dict[str, Any]
    """Of Codec.to_json."""

    def plans(self, work: Path) -> list[ViewPlan]:
        """The five views, the vectors of items first."""
        plans = [
            *item_plans(work / self.items, self.space_id, self.generation),
            *user_plans(work / self.users, self.space_id, self.generation),
        ]
        return [coded(plan, self._shape()) for plan in plans]

    def _shape(self) -> Codec:
        """The codec without its basis, which Feast knows nothing of."""
        return Codec.from_json(self.codec | {"has_basis": False}, b"")


def objects(work: str | Path) -> dict[str, Any]:
    """Entities, views and the service `ctr` of a work folder, by name.

    Args:
        work: the work folder.

    Raises:
        StageError: nothing is published there.
    """
    root = Path(work).resolve()
    known, active = registered(root / "feast")
    if not known:
        raise StageError(f"nothing is published in {root}; run: msd run publication")
    made: dict[str, Any] = {f"entity_{entity.name}": entity for entity in entities()}
    for each in known:
        views = [feature_view(plan, online=each.is_online) for plan in each.plans(root)]
        made |= {view.name: view for view in views} | {f"{view.name}_source": view.batch_source for view in views}
        if each.generation == active:
            made["ctr"] = feature_service(each.space_id, views)
    return made


def registered(home: Path) -> tuple[list[Registered], str]:
    """The generations of WORK/feast, the oldest first, and which one is active; empty where none is."""
    path = home / KNOWN_FILE
    if not path.is_file():
        return [], ""
    stored = json.loads(path.read_text(encoding="utf-8"))
    return [Registered(**each) for each in stored["generations"]], stored["active"]


def active_in(home: Path) -> Registered | None:
    """The generation that the service `ctr` of WORK/feast names."""
    known, active = registered(home)
    return next((each for each in known if each.generation == active), None)


def keep(home: Path, known: Sequence[Registered], active: str) -> None:
    """Writes what `registered` reads, and the Python file that Feast's commands look for."""
    stored = {"active": active, "generations": [asdict(each) for each in known]}
    write_atomically(home / KNOWN_FILE, json.dumps(stored, indent=1).encode())
    path = home / REPOSITORY_FILE
    if not path.is_file() or path.read_text(encoding="utf-8") != _REPOSITORY:
        write_atomically(path, _REPOSITORY.encode())


def add(home: Path, one: Registered) -> None:
    """Adds a generation, or replaces what stood there of it."""
    known, active = registered(home)
    keep(home, [*(each for each in known if each.generation != one.generation), one], active)
