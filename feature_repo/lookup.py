"""Ids → published vectors, through Feast's online store."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from feature_repo.definitions import ITEM_KEY, ITEM_VECTORS, USER_KEY, USER_VECTORS, view_name
from feature_repo.redis_server import running_redis
from feature_repo.registry import active_generation, check_spaces
from feature_repo.store import open_store, quiet_feast, write_settings
from pipeline.errors import StageError

if TYPE_CHECKING:
    from feast import FeatureStore


@contextmanager
def vector_lookup(work: Path, space_id: str | None = None) -> "Iterator[VectorLookup]":
    """A lookup on a work directory's publication, its Redis running for as long as the block does.

    Args:
        work: the work directory.
        space_id: the space wanted; None takes the active one.

    Raises:
        StageError: nothing is published, or the space is not.
        SpaceMismatch: as of VectorLookup.
        ServiceError: Redis cannot be reached.
    """
    home = work / "feast"
    if not home.is_dir():
        raise StageError(f"nothing is published in {work}; run: msd run publication")
    with running_redis(work) as redis:
        # The server may have moved to another port since the publication.
        write_settings(home, redis)
        yield VectorLookup(home, space_id)


class VectorLookup:
    """Reads the vectors of one space; Redis must be running, which `vector_lookup` sees to."""

    def __init__(self, home: Path, space_id: str | None = None) -> None:
        """Opens the repository WORK/feast.

        Args:
            home: WORK/feast.
            space_id: the space wanted; None takes the active one.

        Raises:
            StageError: nothing is published, or the space is not.
            SpaceMismatch: item and user vectors are of two spaces, or of another one than wanted.
        """
        with quiet_feast():
            self._store: FeatureStore = open_store(home)
            self.space_id, self.generation = active_generation(self._store)
            if space_id:
                check_spaces(space_id, {"the active generation": self.space_id})
            self._check_views()

    def lookup(
        self, entity: Literal["item", "user"], ids: Sequence[str]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """The latest published vectors of some items or users.

        Returns:
            float32 [N, D], zero where nothing is published, and the mask [N] of ids that have a vector. D is 0 where
            no id has one.
        """
        key, view = self._view(entity)
        if not ids:
            return np.zeros((0, 0), dtype=np.float32), np.zeros(0, dtype=np.bool_)
        with quiet_feast():
            answer = self._store.get_online_features(
                features=[f"{view}:vector"], entity_rows=[{key: each} for each in ids]
            ).to_dict()
        vectors = answer["vector"]
        # Feast calls a missing entity PRESENT; only the absent value tells.
        found_N = np.array([vector is not None for vector in vectors])
        dim = next((len(vector) for vector in vectors if vector is not None), 0)
        vectors_ND = np.zeros((len(ids), dim), dtype=np.float32)
        for row in np.flatnonzero(found_N):
            vectors_ND[row] = vectors[row]
        return vectors_ND, found_N

    def _view(self, entity: str) -> tuple[str, str]:
        if entity == "item":
            return ITEM_KEY.name, view_name(ITEM_VECTORS, self.space_id, self.generation)
        return USER_KEY.name, view_name(USER_VECTORS, self.space_id, self.generation)

    def _check_views(self) -> None:
        known = {view.name: view for view in self._store.list_feature_views()}
        wanted = [self._view(entity)[1] for entity in ("item", "user")]
        missing = [name for name in wanted if name not in known]
        if missing:
            raise StageError(
                f"the space {self.space_id} is not published: there is no {' and no '.join(missing)};"
                " run: msd run publication"
            )
        check_spaces(self.space_id, {name: known[name].tags["space_id"] for name in wanted})
