"""What the leak audit found, as the report needs it: how many rows of which kind, and the first of them by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.storage import Dataset

SHOWN_ROWS = 5


@dataclass(frozen=True, kw_only=True)
class Leaks:
    """Examples that know their own future."""

    checked: int
    """Examples the audit looked at."""
    counts: Mapping[str, int]
    """Kind of leak → findings, the most frequent first; empty where all is well."""
    first: list[dict[str, Any]]
    """The first SHOWN_ROWS findings in order of the events: event_id, user_id, item_id, leak, evidence."""

    @property
    def total(self) -> int:
        """Findings of all kinds."""
        return sum(self.counts.values())

    def sentence(self) -> str:
        """The audit's outcome in words."""
        if not self.total:
            return f"Leak audit: 0 of {self.checked:,} rows know their future."
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in self.counts.items())
        return f"Leak audit: {self.total:,} findings in {self.checked:,} rows ({kinds})."


def read_leaks(audit: Dataset) -> Leaks:
    """The committed audit."""
    table = audit.table(["event_id", "user_id", "item_id", "leak", "evidence"]).sort_by("event_id")
    # The table names so many rows of a kind at most; the manifest counts them all.
    counts = audit.details["leaks"]
    return Leaks(
        checked=audit.details["examined"],
        counts=dict(sorted(counts.items(), key=lambda one: (-one[1], one[0]))),
        first=table.slice(0, SHOWN_ROWS).to_pylist(),
    )
