"""How the sample the teacher reads differs from the catalogue: shares per stratum, KL, effective sample size.

The sample is skewed on purpose (square-root strata, popular and surprising items first), so that a difference is no
fault; how large it is decides what may be concluded from the sample about the whole. Kish's effective sample size says
how many rows of a plain random sample would estimate a mean over the catalogue as well: n_eff = (Σw)² / Σw², w = 1/π.
"""

import hashlib
import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.storage import Dataset

BATCH_ROWS = 16_384
POOLED_STRATUM = "other"
"""Where the sample puts categories too small for rows of their own."""
ITEM_PREFIX = "item:"
Shares = Mapping[Any, float]


@dataclass(kw_only=True)
class _Sample:
    """What is kept of the prompts: sums per level and stratum, and 8 bytes an item."""

    rows: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(int)))
    weights: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(float)))
    """Σ 1/π, which estimates how many rows of the catalogue the stratum stands for."""
    squares: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Σ 1/π² of each level."""
    item_keys: "array[int]" = field(default_factory=lambda: array("Q"))


def coverage(prompts: Dataset, items: Dataset, item_stats: Dataset) -> dict[str, Any]:
    """Shares, divergences and effective sample sizes, per level and overall.

    Args:
        prompts: the sample, with inclusion probabilities.
        items: the catalogue; users have no such list, so theirs is estimated from the inclusion probabilities.
        item_stats: exposures, for the share of them that falls on sampled items.

    Returns:
        `levels` → level → facts and `strata`; `overall` over levels and strata together. Divergences are in nats; that
        of the catalogue from the sample is None where some stratum has no row in the sample, as it is infinite.
    """
    sample = _read_sample(prompts)
    catalogue = {level: dict(estimated) for level, estimated in sample.weights.items()}
    if "item" in sample.rows:
        catalogue["item"] = _catalogue_strata(items, sample.rows["item"])
    levels = {level: _level(sample, level, catalogue[level]) for level in sorted(sample.rows)}
    if "item" in levels:
        levels["item"]["exposure_share"] = _exposure_share(item_stats, sample.item_keys)
    rows = {(level, stratum): count for level, strata in sample.rows.items() for stratum, count in strata.items()}
    listed = {(level, stratum): count for level, strata in catalogue.items() for stratum, count in strata.items()}
    weights = sum(sum(strata.values()) for strata in sample.weights.values())
    overall = _divergences(rows, listed) | _effective(sum(rows.values()), weights, sum(sample.squares.values()))
    return {"overall": overall, "levels": levels}


def divergence(p: Shares, q: Shares) -> float | None:
    """KL(p ‖ q) in nats of shares that each sum to 1; None where p has something that q has not."""
    total = 0.0
    for key, share in p.items():
        if share > 0:
            if q.get(key, 0.0) <= 0:
                return None
            total += share * math.log(share / q[key])
    return max(total, 0.0)


def effective_size(weights: float, squares: float) -> float:
    """Kish's (Σw)² / Σw²; 0 without a row."""
    return weights * weights / squares if squares else 0.0


def _read_sample(prompts: Dataset) -> _Sample:
    sample = _Sample()
    for batch in prompts.batches(BATCH_ROWS):
        columns = (batch[name].to_pylist() for name in ("level", "stratum", "inclusion_probability", "entity_id"))
        for level, stratum, probability, entity in zip(*columns, strict=True):
            weight = 1.0 / probability
            sample.rows[level][stratum] += 1
            sample.weights[level][stratum] += weight
            sample.squares[level] += weight * weight
            if level == "item":
                sample.item_keys.append(_key(entity))
    return sample


def _level(sample: _Sample, level: str, catalogue: Mapping[str, float]) -> dict[str, Any]:
    rows, weights = sample.rows[level], sample.weights[level]
    num_rows, num_listed = sum(rows.values()), sum(catalogue.values())
    strata = [
        {
            "stratum": stratum,
            "rows": rows.get(stratum, 0),
            "share": rows.get(stratum, 0) / num_rows,
            "catalogue_rows": round(catalogue.get(stratum, 0.0), 1),
            "catalogue_share": catalogue.get(stratum, 0.0) / num_listed,
            "estimated_rows": round(weights.get(stratum, 0.0), 1),
        }
        for stratum in sorted(set(rows) | set(catalogue), key=lambda name: (-catalogue.get(name, 0.0), name))
    ]
    return {
        "catalogue_is_estimated": level != "item",
        **_divergences(rows, catalogue),
        **_effective(num_rows, sum(weights.values()), sample.squares[level]),
        "strata": strata,
    }


def _divergences(rows: Mapping[Any, float], catalogue: Mapping[Any, float]) -> dict[str, Any]:
    sampled, listed = _shares(rows), _shares(catalogue)
    missing = [key for key, share in listed.items() if share > 0 and sampled.get(key, 0.0) <= 0]
    return {
        "kl_sample_from_catalogue": divergence(sampled, listed),
        "kl_catalogue_from_sample": divergence(listed, sampled),
        "missing_strata": len(missing),
        "missing_share": sum(listed[key] for key in missing),
    }


def _effective(num_rows: int, weights: float, squares: float) -> dict[str, Any]:
    size = effective_size(weights, squares)
    return {"rows": num_rows, "effective_rows": round(size, 1), "effective_share": size / num_rows if num_rows else 0.0}


def _shares(counts: Mapping[Any, float]) -> dict[Any, float]:
    total = sum(counts.values())
    return {key: count / total for key, count in counts.items()} if total else {}


def _catalogue_strata(items: Dataset, sampled: Mapping[str, int]) -> dict[str, float]:
    """Items per stratum; a category without a row of its own stands in the pooled stratum where there is one."""
    counts: Counter[str] = Counter()
    for batch in items.batches(BATCH_ROWS):
        counts.update(batch["category"].to_pylist())
    strata: Counter[str] = Counter()
    for category, count in counts.items():
        pooled = category not in sampled and POOLED_STRATUM in sampled
        strata[POOLED_STRATUM if pooled else category] += count
    return {stratum: float(count) for stratum, count in strata.items()}


def _exposure_share(item_stats: Dataset, item_keys: "array[int]") -> float:
    """Share of the training window's exposures that falls on sampled items; 0 where nothing was shown."""
    sampled = np.sort(np.frombuffer(item_keys, dtype=np.uint64)) if item_keys else np.zeros(0, dtype=np.uint64)
    on_sample = total = 0
    for keys, exposures in _exposures(item_stats):
        place = np.searchsorted(sampled, keys)
        is_sampled = sampled[np.minimum(place, len(sampled) - 1)] == keys if len(sampled) else np.zeros(len(keys), bool)
        on_sample += int(exposures[is_sampled].sum())
        total += int(exposures.sum())
    return on_sample / total if total else 0.0


def _exposures(item_stats: Dataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for batch in item_stats.batches(BATCH_ROWS):
        keys = np.fromiter((_key(name) for name in batch["item_id"].to_pylist()), dtype=np.uint64, count=len(batch))
        yield keys, batch["exposures"].cast(pa.int64()).to_numpy(zero_copy_only=False)


def _key(entity: str) -> int:
    """64 bits of a hash: at a hundred million items a pair collides in one run of some three thousand."""
    return int.from_bytes(hashlib.blake2b(entity.encode(), digest_size=8).digest(), "big")
