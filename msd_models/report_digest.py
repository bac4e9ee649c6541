"""One hash over everything in a report that is a result, by which two runs of the same plan are told to agree.

It sees every metric, interval, curve, verdict, phrase F1 and row count, to nine decimals, which no result needs and a
sum in another order keeps. It does not see when, how fast, where and by what means: times, rates, memory on the server,
what the store held before. Of a publication it sees the rows, the space and the codec; drift is against whatever was
active then, and no result of the plan.

On one machine every stage gives the same bits again, killed or not, but a teacher that runs in vLLM: there the rows
under way beside it can change a row's last digits and so, rarely, a word; then the results differ, and so does this.
Another kind of processor, or another number of threads, changes last digits of trainings as well.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

DECIMALS = 9
RESULTS = (
    "source",
    "space_id",
    "split",
    "test",
    "seeds",
    "bootstrap",
    "audit",
    "verdict",
    "claims",
    "arms",
    "cold",
    "exposure",
    "slices",
    "reliability",
    "cold_verdict",
    "distillation",
    "tuning",
    "teacher",
    "embedding",
    "stages",
)
"""Parts of report.json, as `report` writes them."""
PUBLISHED = ("rows", "space_id", "dim", "codec", "online_keys")
LEFT_OUT = ("reading",)
"""How texts were read: settings, paths of models among them."""
LEFT_OUT_ENDINGS = ("seconds", "_per_second", "_at")


def report_digest(report: Mapping[str, Any]) -> str:
    """64 hex digits; the same for reports that say the same.

    Args:
        report: what report.json holds.
    """
    results = {name: _result(report[name]) for name in RESULTS if name in report}
    published = report.get("publish", {})
    results["publish"] = {
        name: _result({key: facts[key] for key in PUBLISHED if key in facts}) for name, facts in published.items()
    }
    return hashlib.sha256(json.dumps(results, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _result(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _result(inner) for name, inner in value.items() if not _is_left_out(str(name))}
    if isinstance(value, list | tuple):
        return [_result(inner) for inner in value]
    # Adding zero makes one number of the two that round to nothing.
    return round(value, DECIMALS) + 0.0 if isinstance(value, float) else value


def _is_left_out(name: str) -> bool:
    return name in LEFT_OUT or name.endswith(LEFT_OUT_ENDINGS)
