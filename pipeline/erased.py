"""WORK/erased.json: who was erased, as salted hashes, so that tomorrow's export does not bring a person back.

No id can be read from the list; whoever holds it can only ask whether a given id is on it. `interactions` and `users`
leave out the rows of everybody on it (spark_jobs/erased.py), and the list is part of their fingerprints.
"""

import hashlib
import json
import secrets
from dataclasses import dataclass
from pathlib import Path

from pipeline.storage import write_atomically

FILE = "erased.json"
SALT_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class ErasedList:
    """The people that a work folder must not take in again."""

    salt: str
    digests: tuple[str, ...]
    """SHA-256 of salt and id, 64 hex digits, in ascending order."""

    def digest_of(self, user_id: str) -> str:
        """What stands for an id on the list, and names the receipt of its erasure."""
        return hashlib.sha256((self.salt + user_id).encode()).hexdigest()

    def __contains__(self, user_id: str) -> bool:
        """Whether the person was erased."""
        return self.digest_of(user_id) in self.digests


def read_erased(root: Path) -> ErasedList:
    """The list of a work folder; one with a salt of its own and nobody on it before the first erasure."""
    path = root / FILE
    if not path.is_file():
        return ErasedList(salt=secrets.token_hex(SALT_BYTES), digests=())
    told = json.loads(path.read_text(encoding="utf-8"))
    return ErasedList(salt=told["salt"], digests=tuple(told["digests"]))


def write_erased(root: Path, user_id: str, known: ErasedList) -> ErasedList:
    """Puts a person on the list.

    Args:
        root: the work folder.
        user_id: of the person.
        known: what `read_erased` gave, whose salt may be new.
    """
    longer = ErasedList(salt=known.salt, digests=tuple(sorted({*known.digests, known.digest_of(user_id)})))
    told = {"salt": longer.salt, "digests": list(longer.digests)}
    write_atomically(root / FILE, json.dumps(told, indent=1).encode())
    return longer
