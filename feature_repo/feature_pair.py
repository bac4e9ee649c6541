"""item_features and user_features as one thing that is published, and the codec its vectors go online with."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from feature_repo.offline import VECTORS_FILE
from feature_repo.registry import check_spaces
from feature_repo.repository import Registered
from feature_repo.vector_codec import Codec, fit_codec
from pipeline.config import Publication
from pipeline.storage import Dataset, write_atomically

FITTED_ROWS = 4096
"""Vectors of each of the two that principal components are fitted on, evenly spaced."""
CODEC_FILE = "codec.json"
BASIS_FILE = "basis.bin"


@dataclass(frozen=True, kw_only=True)
class FeaturePair:
    """Features of items and of users, of one space."""

    items: Dataset
    users: Dataset
    space_id: str

    @staticmethod
    def of(items: Dataset, users: Dataset) -> "FeaturePair":
        """The two as a pair.

        Raises:
            SpaceMismatch: they are of different spaces.
            StageError: one of them is not made yet.
        """
        space_id = items.details["space_id"]
        check_spaces(space_id, {users.name: users.details["space_id"]})
        return FeaturePair(items=items, users=users, space_id=space_id)

    def num_rows(self) -> int:
        """Rows of all views, older snapshots included."""
        return sum(sum(each.details["offline_rows"].values()) for each in (self.items, self.users))


def settle_codec(pair: FeaturePair, config: Publication, folder: Path) -> Codec:
    """The codec of a publication, kept in its folder; the same one when it is there already.

    Args:
        pair: whose vectors the components are fitted on.
        config: precision and dimensions.
        folder: of the publication.

    Raises:
        ConfigError: the settings ask for what cannot be.
    """
    if (folder / CODEC_FILE).is_file():
        return open_codec(folder)
    codec = fitted_codec(pair, config)
    write_atomically(folder / BASIS_FILE, codec.basis_bytes())
    write_atomically(folder / CODEC_FILE, json.dumps(codec.to_json(), indent=1).encode())
    return codec


def fitted_codec(pair: FeaturePair, config: Publication) -> Codec:
    """The codec of the settings, its components fitted on vectors of items and users alike."""
    return fit_codec(config.precision, config.dimensions, np.concatenate([_evenly(pair.items), _evenly(pair.users)]))


def open_codec(folder: Path) -> Codec:
    """The codec that settle_codec kept."""
    facts = json.loads((folder / CODEC_FILE).read_text(encoding="utf-8"))
    return Codec.from_json(facts, (folder / BASIS_FILE).read_bytes())


def as_registered(pair: FeaturePair, codec: Codec, folder: Path, *, is_online: bool) -> Registered:
    """What the registry of a work folder is told of a publication."""
    items, users = (f"{each.name}/{each.fingerprint}" for each in (pair.items, pair.users))
    return Registered(
        generation=folder.name,
        space_id=pair.space_id,
        items=items,
        users=users,
        publication=f"{folder.parent.name}/{folder.name}",
        is_online=is_online,
        codec=codec.to_json(),
    )


def _evenly(features: Dataset) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
    vectors_ND = np.load(features.folder / VECTORS_FILE, mmap_mode="r")
    rows = np.linspace(0, len(vectors_ND) - 1, min(FITTED_ROWS, len(vectors_ND))).astype(np.int64)
    return np.asarray(vectors_ND[rows])
