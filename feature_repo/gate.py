"""What a gate asks of the feature store: whether a generation's vectors are fit, and what readers have now."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from feature_repo.feature_checks import judge_features
from feature_repo.feature_pair import FeaturePair
from feature_repo.generations import Generations
from feature_repo.repository import Registered, registered
from feature_repo.site import connected
from feature_repo.store import project_name
from feature_repo.switching import known_as
from pipeline.config import Publication
from pipeline.storage import Dataset, Workspace


@dataclass(frozen=True, kw_only=True)
class Active:
    """The generation readers are pointed at."""

    generation: str
    space_id: str
    features: dict[str, Dataset] | None
    """item_features and user_features; None where another work folder published it, or its files are gone."""


def judge_vectors(config: Publication, publication: Dataset, features: Sequence[Dataset]) -> dict[str, Any]:
    """The findings of a publication's checks, made again on what lies on disk and against what readers have now.

    Args:
        config: the limits.
        publication: committed.
        features: of items and of users, that it was made of.

    Raises:
        StageError: a limit is passed.
        SpaceMismatch: the two are of different spaces.
    """
    return judge_features(FeaturePair.of(features[0], features[1]), config, publication.folder)


def active_generation(workspace: Workspace) -> Active | None:
    """What readers have; None where nothing is active.

    Where generations go online Redis says so, since lookups follow its pointer; else the registry does.

    Raises:
        ServiceError: Redis cannot be reached.
    """
    home = workspace.root / "feast"
    known, named = registered(home)
    if not known:
        return None
    online = [each for each in known if each.is_online]
    if not online:
        here = known_as(home, named)
        return None if here is None else _active(workspace, here.generation, here.space_id, here)
    with connected(workspace.root) as (_, client):
        found = Generations(client, project_name()).active()
    if found is None:
        return None
    return _active(workspace, found.name, found.space_id, known_as(home, found.name))


def _active(workspace: Workspace, generation: str, space_id: str, here: Registered | None) -> Active:
    features = None
    if here is not None:
        found = {
            name: _dataset(workspace, path)
            for name, path in (("item_features", here.items), ("user_features", here.users))
        }
        if all(each.manifest is not None for each in found.values()):
            features = found
    return Active(generation=generation, space_id=space_id, features=features)


def _dataset(workspace: Workspace, path: str) -> Dataset:
    """A dataset by its folder below the work folder."""
    name, _, fingerprint = path.partition("/")
    return workspace.dataset(name, fingerprint, None)
