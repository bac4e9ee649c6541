"""Rates of the teacher's rows, by level and stratum: summed up batch by batch, so that memory stays that of the strata.

A phrase counts as said when the teacher wrote it, whatever became of it: kept, dropped as unrelated, or dropped as
repeated. Shares of phrases are of those said; attempts are of rows the teacher read itself.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

MOVES = ("moved_to_implicit", "moved_to_explicit", "unrelated_phrases", "repeated_phrases")
SUMMED = (*MOVES, "prompt_tokens", "output_tokens", "text_tokens_cut", "attempts")
Place = tuple[str, str]
"""(level, stratum)"""


@dataclass(kw_only=True)
class TeacherTally:
    """Sums of what has been added so far."""

    sums: dict[Place, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    reasons: dict[Place, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    @property
    def rows(self) -> int:
        """Rows added."""
        return sum(sums["rows"] for sums in self.sums.values())

    def add(self, batch: pa.RecordBatch) -> None:
        """Counts a batch of teacher_outputs in."""
        table = _countable(batch)
        counted = [name for name in table.column_names if name not in ("level", "stratum", "reason")]
        grouped = table.group_by(["level", "stratum"]).aggregate([(name, "sum") for name in counted])
        for row in grouped.to_pylist():
            self.sums[row["level"], row["stratum"]].update({name: int(row[f"{name}_sum"] or 0) for name in counted})
        refused = table.filter(pc.is_valid(table["reason"])).group_by(["level", "stratum", "reason"])
        for row in refused.aggregate([("rows", "sum")]).to_pylist():
            self.reasons[row["level"], row["stratum"]][row["reason"]] += row["rows_sum"]

    def facts(self) -> dict[str, Any]:
        """Rates overall, of each level, and of each level's strata, the largest first."""
        places = sorted(self.sums, key=lambda place: (place[0], -self.sums[place]["rows"], place[1]))
        levels = {}
        for level in sorted({level for level, _ in places}):
            within = [place for place in places if place[0] == level]
            strata = [{"stratum": stratum, **self._rates([(level, stratum)])} for _, stratum in within]
            levels[level] = {**self._rates(within), "strata": strata}
        return {"overall": self._rates(places), "levels": levels}

    def _rates(self, places: Iterable[Place]) -> dict[str, Any]:
        sums: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        for place in places:
            sums.update(self.sums[place])
            reasons.update(self.reasons.get(place, Counter()))
        said = sums["explicit"] + sums["implicit"] + sums["unrelated_phrases"] + sums["repeated_phrases"]
        return {
            "rows": sums["rows"],
            "rejected": sum(reasons.values()),
            "reasons": dict(reasons.most_common()),
            "collapsed": sums["collapsed"],
            "explicit_per_row": _ratio(sums["explicit"], sums["ok"]),
            "implicit_per_row": _ratio(sums["implicit"], sums["ok"]),
            "phrases_said": said,
            **{f"{name}_share": _ratio(sums[name], said) for name in MOVES},
            "texts_cut": sums["texts_cut"],
            "tokens_cut": sums["text_tokens_cut"],
            "attempts_per_row": _ratio(sums["attempts"], sums["rows"] - sums["collapsed"]),
            "prompt_tokens": sums["prompt_tokens"],
            "output_tokens": sums["output_tokens"],
        }


def _countable(batch: pa.RecordBatch) -> pa.Table:
    """One row for each of the batch's, with a whole number under everything that is summed."""
    is_ok = pc.equal(batch["status"], "ok")
    is_collapsed = pc.not_equal(batch["representative_id"], batch["prompt_id"])
    columns = {name: batch[name] for name in ("level", "stratum", "reason", *SUMMED)}
    # Its representative was asked, not the row: the same attempts would count twice.
    columns["attempts"] = pc.if_else(is_collapsed, 0, batch["attempts"])
    columns |= {
        "rows": pa.array([1] * batch.num_rows, pa.int64()),
        "ok": is_ok.cast(pa.int64()),
        "collapsed": is_collapsed.cast(pa.int64()),
        "explicit": pc.list_value_length(batch["explicit_phrases"]),
        "implicit": pc.list_value_length(batch["implicit_phrases"]),
        "texts_cut": pc.greater(batch["text_tokens_cut"], 0).cast(pa.int64()),
    }
    return pa.table(columns)


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
