"""What Feast's registry points at: views applied where they differ, and the service `ctr` on the active space."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from feature_repo.definitions import (
    ITEM_STATS,
    SERVICE,
    USER_HISTORIES,
    ViewPlan,
    entities,
    feature_service,
    feature_view,
    item_view_name,
    user_view_name,
)
from pipeline.errors import SpaceMismatch, StageError

if TYPE_CHECKING:
    from feast import FeatureStore


def apply_views(store: "FeatureStore", plans: Sequence[ViewPlan], *, online: bool) -> None:
    """Registers the entities and the views; a view of the same name is replaced."""
    _apply(store, [*entities(), *(feature_view(plan, online=online) for plan in plans)])


def ensure_views(store: "FeatureStore", plans: Sequence[ViewPlan]) -> None:
    """Points the registry's views at exactly these files, where another preset's run has moved them."""
    known = {view.name: view for view in store.list_feature_views()}
    for plan in plans:
        view = known.get(plan.name)
        if view is None or view.batch_source.path != plan.source_path or dict(view.tags) != plan.tags:
            apply_views(store, [plan], online=view is None or view.online)


def activate(store: "FeatureStore", space_id: str) -> bool:
    """Points the service `ctr` at a space once both its item and its user vectors are registered.

    Returns:
        False where one side of the space is not there yet.
    """
    known = {view.name: view for view in store.list_feature_views()}
    names = (item_view_name(space_id), user_view_name(space_id), USER_HISTORIES, ITEM_STATS)
    if not all(name in known for name in names):
        return False
    _apply(store, [feature_service(space_id, [known[name] for name in names])])
    return True


def active_space(store: "FeatureStore") -> str:
    """The space the service `ctr` points at.

    Raises:
        StageError: nothing is published yet.
        SpaceMismatch: the service's item and user vectors are of two spaces.
    """
    services = [service for service in store.list_feature_services() if service.name == SERVICE]
    if not services:
        raise StageError("no vectors are published yet; run: msd run item_features user_features")
    space_id: str = services[0].tags["space_id"]
    views = {view.name: view for view in store.list_feature_views()}
    spaces = {
        name: views[name].tags["space_id"]
        for name in (item_view_name(space_id), user_view_name(space_id))
        if name in views
    }
    check_spaces(space_id, spaces)
    return space_id


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
                " msd run item_features user_features"
            )
