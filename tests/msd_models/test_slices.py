"""Parts of the test rows: they share the rows out, and each is judged as if it were the whole."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd_models import metrics
from msd_models.scores import ScoredRows
from msd_models.slices import COLD_BELOW, DECILES, cold_items, exposure_buckets, slices

RUNS = {
    "din": {"backbone": "din", "module": "none", "vectors": None, "learns_from": ""},
    "raw_text": {"backbone": "din", "module": "msd", "vectors": "raw_text", "learns_from": ""},
    "msd": {"backbone": "din", "module": "msd", "vectors": "tuned", "learns_from": ""},
}


def made_up(seed, num_rows=400, max_exposures=40, cold_strength=2.0):
    """On cold items msd knows the truth and din does not; elsewhere both know it a little."""
    random = np.random.default_rng(seed)
    truth = random.normal(size=num_rows)
    labels = (random.random(num_rows) < 1 / (1 + np.exp(-2 * truth))).astype(np.int8)
    items = random.integers(60, size=num_rows)
    exposures = (items * max_exposures) // 60
    strength = {"din": np.where(exposures < COLD_BELOW, 0.0, 1.0), "raw_text": 0.3 + 0.0 * truth}
    strength["msd"] = np.where(exposures < COLD_BELOW, cold_strength, 1.0)
    scores = {
        arm: np.stack([1 / (1 + np.exp(-(strength[arm] * truth + random.normal(size=num_rows)))) for _ in range(2)])
        for arm in RUNS
    }
    facts = {
        "event_id": pa.array(range(num_rows), pa.int64()),
        "category": [f"c{item % 13}" for item in items],
        "item_exposures": pa.array(exposures, pa.int64()),
        "history_length": pa.array(random.integers(0, 30, size=num_rows), pa.int64()),
        "has_item_vector": items % 9 > 0,
        "has_user_vector": [True] * num_rows,
    }
    return ScoredRows(
        event_ids=np.arange(num_rows),
        labels=labels,
        users=random.integers(50, size=num_rows),
        item_ids=pa.array([f"i{item}" for item in items]),
        seeds=(1, 2),
        scores=scores,
        runs={arm: [run] * 2 for arm, run in RUNS.items()},
        facts=pa.table(facts),
    )


def test_what_helps_cold_items_alone_is_found_there():
    rows = made_up(0, num_rows=2000)
    cold = cold_items(rows, rounds=100, seed=0)
    msd = next(arm for arm in cold["arms"] if arm["name"] == "msd")
    assert msd["delta_auc_vs"]["din"][0] > 0.2
    assert msd["delta_auc_vs"]["raw_text"][0] > 0
    inside = rows.facts.column("item_exposures").to_numpy() < COLD_BELOW
    assert cold["rows"] == inside.sum()
    plain = np.mean([metrics.auc(rows.labels[inside], run[inside]) for run in rows.scores["msd"]])
    assert msd["auc"] == pytest.approx(plain)
    deciles = [part for part in slices(rows, rounds=60, seed=0) if part["family"] == "decile"]
    deltas = [part["delta_auc_vs"]["msd"]["din"] for part in deciles]
    assert deltas[0][0] > 0
    assert deltas[-1][0] < 0 < deltas[-1][2]


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(30, 400), st.sampled_from([1, 5, 40, 900]))
def test_every_family_shares_the_rows_out(seed, num_rows, max_exposures):
    rows = made_up(seed, num_rows, max_exposures)
    parts = slices(rows, rounds=40, seed=0)
    for family in ("decile", "history", "item_vector", "user_vector"):
        of_family = [part for part in parts if part["family"] == family]
        assert sum(part["rows"] for part in of_family) == num_rows
        assert sum(part["clicks"] for part in of_family) == rows.labels.sum()
    assert 1 <= len([part for part in parts if part["family"] == "decile"]) <= DECILES
    categories = [part for part in parts if part["family"] == "category"]
    assert len(categories) == min(10, len(set(rows.facts.column("category").to_pylist())))
    counts = [part["rows"] for part in categories]
    assert counts == sorted(counts, reverse=True)
    buckets = exposure_buckets(rows)
    assert sum(bucket["rows"] for bucket in buckets) == num_rows
    for part in (*parts, *buckets):
        assert 0 <= part["clicks"] <= part["rows"]
        assert part["auc"].keys() == RUNS.keys()
        rankable = 0 < part["clicks"] < part["rows"]
        assert all(np.isnan(value) != rankable for value in part["auc"].values())


def test_no_cold_row_no_cold_part():
    rows = made_up(1, max_exposures=40)
    exposures = pa.array(np.full(len(rows.labels), 50), pa.int64())
    at = rows.facts.column_names.index("item_exposures")
    warm = ScoredRows(**{**vars(rows), "facts": rows.facts.set_column(at, "item_exposures", exposures)})
    assert cold_items(warm, rounds=40, seed=0) is None
    assert len([part for part in slices(warm, rounds=40, seed=0) if part["family"] == "decile"]) == 1
