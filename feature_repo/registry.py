"""What Feast's registry points at: views applied where they differ, and the service `ctr` on the active space."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from feature_repo.definitions import SERVICE, ViewPlan, entities, feature_service, feature_view
from pipeline.errors import SpaceMismatch, StageError

if TYPE_CHECKING:
    from feast import FeatureStore


def apply_views(store: "FeatureStore", plans: Sequence[ViewPlan], *, online: bool) -> None:
    """Registers the entities and the views; a view of the same name is replaced."""
    _apply(store, [*entities(), *(feature_view(plan, online=online) for plan in plans)])


def activate(store: "FeatureStore", names: Sequence[str]) -> None:
    """Points the service `ctr` at the views of one generation."""
    known = {view.name: view for view in store.list_feature_views()}
    views = [known[name] for name in names]
    _apply(store, [feature_service(views[0].tags["space_id"], views)])


def active_generation(store: "FeatureStore") -> tuple[str, str]:
    """(space_id, generation) the service `ctr` points at.

    Raises:
        StageError: nothing is published yet.
    """
    services = [service for service in store.list_feature_services() if service.name == SERVICE]
    if not services:
        raise StageError("no vectors are published yet; run: msd run publication")
    return services[0].tags["space_id"], services[0].tags["generation"]


def _apply(store: "FeatureStore", objects: Sequence[Any]) -> None:
    """Applies, and makes the store see it: Feast goes on reading its cached registry until the cache's time is up."""
    store.apply([*objects])
    store.refresh_registry()


def check_spaces(space_id: str, spaces: dict[str, str]) -> None:
    """Raises SpaceMismatch where one of the named things is of another space."""
    for name, found in spaces.items():
        if found != space_id:
            raise SpaceMismatch(
                f"{name} holds vectors of the space {found}, wanted {space_id}; publish both of one space:"
                " msd run publication"
            )
