"""The one key readers follow: which generation is active, its views and how its vectors are stored.

A switch of generations is one SET of this key, so a reader sees the old generation or the new one and nothing between.
The braces keep a project's own keys on one node of a cluster; they are part of the name.
"""

import json
from dataclasses import dataclass
from typing import Any

from feature_repo.vector_codec import Codec
from pipeline.errors import StageError


@dataclass(frozen=True, kw_only=True)
class Pointer:
    """A generation, as readers need to know it."""

    generation: str
    """Fingerprint of the publication, 16 hex digits."""
    space_id: str
    dim: int
    """Of the space: what a lookup returns."""
    codec: dict[str, Any]
    """Of Codec.to_json."""
    views: dict[str, str]
    """item_vectors, user_vectors, item_stats, user_stats and user_histories → the view's name in this generation."""
    folders: dict[str, str]
    """items, users → the dataset's folder below the work directory, such as item_features/<fingerprint>."""

    def to_bytes(self) -> bytes:
        """What stands in Redis."""
        return json.dumps(vars(self), sort_keys=True).encode()

    @staticmethod
    def from_bytes(stored: bytes) -> "Pointer":
        """The pointer of to_bytes.

        Raises:
            StageError: it is something else.
        """
        try:
            return Pointer(**json.loads(stored))
        except (ValueError, TypeError) as error:
            raise StageError(
                f"the pointer of the published vectors cannot be read: {error}; publish again: msd run publication"
            ) from error

    def open_codec(self, basis: bytes) -> Codec:
        """The generation's codec, from the bytes under basis_key."""
        return Codec.from_json(self.codec, basis)


def pointer_key(project: str) -> str:
    """Where the active generation's pointer stands."""
    return f"msd:{{{project}}}:active"


def basis_key(project: str, generation: str) -> str:
    """Where the basis of a generation's codec stands, if it has one."""
    return f"msd:{{{project}}}:basis:{generation}"
