"""Whether readers still get what was published: equality, age, coverage and hit rate of the active generation.

What was right when it was written can go wrong afterwards, and quietly: a server drops keys, a chain stops and vectors
grow old, new items come faster than vectors. Each is a figure beside its bound. A figure without a bound is told and
not judged.
"""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pipeline.checks import Check, at_least, at_most
from pipeline.job import load
from pipeline.runner import Plan

HOUR_SECONDS = 3600.0


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What the active generation has to keep."""

    max_age_hours: float
    """Since the generation was begun."""
    max_data_age_hours: float | None
    """From the newest value to now, or to the end of the plan's day; None judges nothing without a day, and as
    max_age_hours with one."""
    min_coverage: float
    """Share of the catalogue with a vector online."""
    min_user_coverage: float
    min_hit_rate: float
    """Share of texts whose vectors were kept from before."""
    rows: int
    """Keys of each entity that are compared."""
    scans: bool
    """Looks for keys online that the offline files lack, over all keys of the server."""


def examine(plan: Plan, bounds: Bounds) -> dict[str, Any]:
    """Judges what readers get.

    Args:
        plan: whose work folder it is; with a date, its items are the catalogue and its end is when data is old from.
        bounds: see Bounds.

    Returns:
        `date`, `generation`, `space_id`, `is_within_bounds`, `checks`, `examined_at`.

    Raises:
        StageError: nothing is active, or it cannot be compared as its files are gone.
        ServiceError: Redis cannot be reached.
    """
    now = time.time()
    module = "feature_repo.online_canary"
    items = plan.dataset("items") if plan.date else None
    how = load(f"{module}:Look")(
        # Other keys every day, and the same ones when the same day is looked at again.
        rows=bounds.rows,
        seed=int(now // (24 * HOUR_SECONDS)),
        scans=bounds.scans,
        catalogue=items.folder if items is not None and items.manifest is not None else None,
    )
    seen = load(f"{module}:look")(plan.workspace.root, how)
    checks = [
        *_equality(seen),
        *_ages(seen, plan.date, now, bounds),
        *_coverages(seen, bounds),
        _hit_rate(seen, bounds),
    ]
    return {
        "date": plan.date,
        "generation": seen.generation,
        "space_id": seen.space_id,
        "is_within_bounds": all(check.passed for check in checks),
        "checks": [check.to_json() for check in checks],
        "examined_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def figures(found: Mapping[str, Any]) -> dict[str, float | None]:
    """What `examine` found, by the names that metrics have."""
    checks = {check["name"]: check for check in found["checks"]}
    age, coverage, hits = checks["age"], checks["item_coverage"], checks["hit_rate"]
    return {
        "freshness_seconds": age["figure"] * HOUR_SECONDS,
        "freshness_bound_seconds": age["bound"] * HOUR_SECONDS,
        "coverage_ratio": coverage["figure"],
        "coverage_floor_ratio": coverage["bound"],
        "hit_rate_ratio": hits["figure"],
        "hit_rate_floor_ratio": hits["bound"],
        "compared_rows": checks["equality"]["facts"]["compared"],
        "unequal_rows": checks["equality"]["figure"],
    }


def _equality(seen: Any) -> Iterator[Check]:
    told = seen.pointer_told or "lookups and Feast clients are told of the same generation, as it was published"
    yield Check(name="pointer", passed=not seen.pointer_told, told=told)
    compared, missing, differing = (
        sum(view[name] for view in seen.views.values()) for name in ("compared", "missing", "differing")
    )
    some = [item for view in seen.views.values() for item in view["some"]]
    where = ", ".join(f"{view} {found['missing']} and {found['differing']}" for view, found in seen.views.items())
    told = (
        f"of {compared:,} sampled values {missing:,} are missing online and {differing:,} differ from the offline files"
    )
    if missing or differing:
        told += f" ({where}{'; items ' + ', '.join(dict.fromkeys(some)) if some else ''})"
    yield Check(
        name="equality",
        passed=compared > 0 and not missing and not differing,
        told=told,
        figure=float(missing + differing),
        bound=0.0,
        facts={"compared": compared, "missing": missing, "differing": differing, "views": seen.views},
    )
    yield at_most("expiry", "the number of sampled keys that will expire", seen.expiring, 0)
    if seen.unknown is not None:
        what = "the number of keys online that the offline files lack"
        yield at_most("unknown_keys", what, sum(seen.unknown.values()), 0, **seen.unknown)


def _ages(seen: Any, date: str, now: float, bounds: Bounds) -> Iterator[Check]:
    age = (now - seen.created_at) / HOUR_SECONDS
    yield at_most("age", "the generation's age in hours", age, bounds.max_age_hours)
    if seen.newest_event_at is None:
        yield Check(name="data_age", passed=False, told="no value online says when it became available")
        return
    until, limit = now, bounds.max_data_age_hours
    if date:
        until = (datetime.fromisoformat(date).replace(tzinfo=UTC) + timedelta(days=1)).timestamp()
        limit = bounds.max_age_hours if limit is None else limit
    data_age = (until - seen.newest_event_at) / HOUR_SECONDS
    what = f"the newest value's age in hours {f'at the end of {date}' if date else 'now'}"
    if limit is None:
        yield Check(name="data_age", passed=True, told=f"{what} is {data_age:.4g}", figure=data_age)
    else:
        yield at_most("data_age", what, data_age, limit)


def _coverages(seen: Any, bounds: Bounds) -> Iterator[Check]:
    for entity, bound in (("item", bounds.min_coverage), ("user", bounds.min_user_coverage)):
        total, with_vector = seen.coverage[f"{entity}s"], seen.coverage[f"{entity}s_with_vector"]
        view = seen.views.get(f"{entity}_vectors")
        # What is chosen for the server and what a sample finds there: a key that is gone covers nothing.
        there = 1 - view["missing"] / view["compared"] if view and view["compared"] else 1.0
        share = with_vector / total * there if total else 0.0
        what = f"the share of {total:,} {entity}s with a vector online"
        yield at_least(f"{entity}_coverage", what, share, bound, total=total, with_vector=with_vector)


def _hit_rate(seen: Any, bounds: Bounds) -> Check:
    """From the manifests of the vectors that the generation was made of."""
    texts = read = 0
    for folder in seen.features:
        for name, fingerprint in _manifest(folder)["inputs"].items():
            path = folder.parents[1] / name / fingerprint
            if name.endswith("_vectors") and (path / "manifest.json").is_file():
                details = _manifest(path)["details"]
                texts, read = texts + details.get("texts", 0), read + details.get("texts_read", 0)
    if not texts:
        told = "the manifests of the generation's vectors are gone, so that no hit rate is known"
        return Check(name="hit_rate", passed=bounds.min_hit_rate <= 0, told=told, bound=bounds.min_hit_rate)
    what = "the share of texts found among the kept vectors"
    return at_least("hit_rate", what, 1 - read / texts, bounds.min_hit_rate, texts=texts, texts_read=read)


def _manifest(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return manifest
