"""What knowledge is worth where it is real: hidden traits decide the clicks and the best possible AUC is known."""

import json
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from pipeline.call import plan_of
from pipeline.stages import with_ancestors

pytestmark = [
    pytest.mark.spark,
    pytest.mark.redis,
    pytest.mark.feast,
    pytest.mark.slow,
    pytest.mark.xdist_group("flow"),
]


@pytest.fixture(scope="session")
def report(planted):
    return json.loads((planted.work / "report" / "report.json").read_text())


@pytest.fixture(scope="session")
def plan(planted):
    return plan_of(planted.work, None, None, None)


def auc_of(scored, click):
    """Pairs ranked right, ties half, by counting; the plain definition."""
    positives = [s for s, c in zip(scored, click, strict=True) if c]
    negatives = [s for s, c in zip(scored, click, strict=True) if not c]
    won = sum((p > n) + 0.5 * (p == n) for p in positives for n in negatives)
    return won / (len(positives) * len(negatives))


@pytest.fixture(scope="session")
def ceiling(planted, plan):
    """AUC of the true probabilities on the test rows of the run."""
    truth = pq.read_table(planted.folder / "truth.parquet").to_pydict()
    keys = zip(truth["user_id"], truth["item_id"], truth["timestamp"], strict=True)
    known = dict(zip(keys, truth["probability"], strict=True))
    rows = [row for row in plan.dataset("examples").table().to_pylist() if row["split"] == "test"]
    scored = [known[row["user_id"], row["item_id"], int(row["event_at"].timestamp())] for row in rows]
    return auc_of(scored, [row["is_click"] for row in rows])


def test_msd_closes_half_of_the_gap_and_placebos_none_that_can_be_told(report, ceiling):
    arms = {arm["name"]: arm for arm in report["arms"]}
    gap = ceiling - arms["din"]["auc"]
    closed = {name: (arm["auc"] - arms["din"]["auc"]) / gap for name, arm in arms.items()}
    assert gap > 0.1, "the world leaves nothing to know"
    assert closed["msd_frozen"] >= 0.5, closed
    assert closed["shuffled_vectors"] <= 0.05, closed
    assert closed["random_vectors"] <= 0.15, closed
    for placebo in ("shuffled_vectors", "random_vectors"):
        assert arms[placebo]["delta_auc_vs"]["din"][0] <= 0, closed


def test_the_vanilla_network_keeps_half_of_what_the_gain_network_knows(report):
    kept = next(arm for arm in report["arms"] if arm["name"] == "elec_vanilla")["gap_recovered"]
    assert kept["lead"][0] > 0
    assert kept["share"][1] >= 0.5


def test_the_verdict_claims_the_gain_with_its_intervals(report):
    msd = next(arm for arm in report["arms"] if arm["name"] == "msd_frozen")
    low, mean, high = msd["delta_auc_vs"]["shuffled_vectors"]
    assert 0 < low < mean < high
    assert report["verdict"]


def test_every_dataset_accounts_for_its_rows(plan):
    for stage in with_ancestors(["report"]):
        manifest = plan.dataset(stage.name).manifest
        assert manifest is not None, stage.name
        accounted = manifest["rows_ok"] + manifest["rows_rejected"] + manifest["rows_skipped"]
        assert manifest["rows_in"] == accounted, stage.name


def test_no_history_holds_its_own_event_or_a_later_one(plan):
    histories = plan.dataset("histories").table().to_pylist()
    assert histories
    assert all(time < row["snapshot_at"] for row in histories for time in row["event_times"])
    by_row = dict(enumerate(histories))
    examples = [row for row in plan.dataset("examples").table().to_pylist() if row["history_row"] is not None]
    assert examples
    for example in examples:
        history = by_row[example["history_row"]]
        assert history["user_id"] == example["user_id"]
        assert history["snapshot_at"] <= example["event_at"]


def test_running_again_makes_nothing_and_is_quick(planted):
    started = time.monotonic()
    command = [sys.executable, "-m", "pipeline", "run", "report", "--work", str(planted.work)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "nothing recomputed" in ended.stderr
    assert time.monotonic() - started < 20


def test_the_html_report_needs_no_network(planted):
    page = (planted.work / "report" / "report.html").read_text()
    assert "msd_frozen" in page
    assert "<script src" not in page
    assert 'href="http' not in page.split("<body")[0]
