"""What Feast's registry holds: the views of each generation, and the service `ctr` on those of the active one."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from feature_repo.definitions import ViewPlan, entities, feature_service, feature_view
from pipeline.errors import SpaceMismatch, StageError

if TYPE_CHECKING:
    from feast import FeatureStore


def apply_views(store: "FeatureStore", plans: Sequence[ViewPlan], *, online: bool) -> None:
    """Registers the entities and the views; a view of the same name is replaced."""
    _apply(store, [*entities(), *(feature_view(plan, online=online) for plan in plans)])


def point_service(store: "FeatureStore", names: Sequence[str]) -> None:
    """Points the service `ctr` at the views of one generation."""
    known = {view.name: view for view in store.list_feature_views()}
    missing = [name for name in names if name not in known]
    if missing:
        raise StageError(
            f"the registry at {store.repo_path} lacks the views {', '.join(missing)}: the generation was published from"
            " another work folder; activate it there, or publish it here: msd publish"
        )
    views = [known[name] for name in names]
    _apply(store, [feature_service(views[0].tags["space_id"], views)])


def note_written(store: "FeatureStore", intervals: Mapping[str, tuple[datetime, datetime]]) -> None:
    """Tells the registry from when to when each view's values are online, as `feast materialize` would; once."""
    for name, (first, last) in intervals.items():
        view = store.get_feature_view(name)
        if (first, last) not in [(start, end) for start, end in view.materialization_intervals]:
            store.registry.apply_materialization(view, store.project, first, last)
    store.refresh_registry()


def remove_views(store: "FeatureStore", names: Iterable[str]) -> None:
    """Takes views and their sources out of the registry; Redis is left alone, which Feast's own delete would not."""
    views = {view.name for view in store.list_feature_views()}
    sources = {source.name for source in store.list_data_sources()}
    for name in names:
        if name in views:
            store.registry.delete_feature_view(name, store.project)
        if f"{name}_source" in sources:
            store.registry.delete_data_source(f"{name}_source", store.project)
    store.refresh_registry()


def check_spaces(space_id: str, spaces: dict[str, str]) -> None:
    """Raises SpaceMismatch where one of the named things is of another space."""
    for name, found in spaces.items():
        if found != space_id:
            raise SpaceMismatch(
                f"{name} holds vectors of the space {found}, wanted {space_id}; publish both of one space:"
                " msd run publication"
            )


def _apply(store: "FeatureStore", objects: Sequence[Any]) -> None:
    """Applies, and makes the store see it: Feast goes on reading its cached registry until the cache's time is up."""
    store.apply([*objects])
    store.refresh_registry()
