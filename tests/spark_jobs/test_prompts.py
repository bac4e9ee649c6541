"""The sample a teacher reads: stratified, weighted, with true inclusion probabilities, the same on any partitioning."""

from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest

from spark_jobs.sampling import Strata, allot, draw

pytestmark = pytest.mark.spark

TOML = """
[items]
path = "items.csv"
text = ["title", "blurb"]
category = "kind"
attributes = ["brand"]
[events]
path = "events.csv"
time = "time"
label = "label"
[labels]
split = { by = "time", fractions = [0.6, 0.2, 0.2] }
"""


@pytest.fixture
def log(world):
    items = "".join(f"i{n},Item {n},blurb {n},{'abc'[n % 3] if n else ''},Acme\n" for n in range(60))
    world.write("items.csv", "item_id,title,blurb,kind,brand\n" + items)
    rows = "".join(f"u{n % 20},i{(n * n + n // 7) % 60},{1000 + n // 2},{int(n % 3 > 0)}\n" for n in range(600))
    world.write("events.csv", "user_id,item_id,time,label\n" + rows)
    return world


SETTINGS = ("prompts.item_rows=24", "prompts.user_rows=9")


def test_prompts_come_from_the_training_window_and_are_the_same_on_any_partitioning(log, spark):
    made = log.make(TOML, "prompts", "item_stats", settings=SETTINGS)
    rows = made["prompts"].to_pylist()
    spark.conf.set("spark.sql.files.maxPartitionBytes", 2000)
    cut = tuple(f"{name}.spark_partitions=13" for name in ("items", "interactions"))
    again = log.make(TOML, "prompts", settings=(*SETTINGS, *cut), work="again")["prompts"].to_pylist()
    spark.conf.unset("spark.sql.files.maxPartitionBytes")
    assert again == rows
    assert [row["representative_id"] for row in rows] == sorted(row["representative_id"] for row in rows)
    assert all(row["teacher_text"] == row["text"] for row in rows if row["representative_id"] == row["prompt_id"])
    details = log.plan(TOML, *SETTINGS).dataset("prompts").details
    assert {level: facts["rows"] for level, facts in details["near_duplicates"].items()} == {"item": 24, "user": 9}
    assert sum(details["strata"]["item"]["drawn"].values()) == 24
    cut = made["item_stats"].column("counted_until")[0].as_py()
    items = [row for row in rows if row["level"] == "item"]
    users = [row for row in rows if row["level"] == "user"]
    assert len(items) == 24
    assert len(users) == 9
    assert all(row["snapshot_at"] < cut for row in users)
    assert len({row["entity_id"] for row in users}) == 9
    example = next(row for row in items if row["stratum"] == "a")
    number = example["entity_id"][1:]
    assert example["text"] == f"Item {number}\nblurb {number}\nbrand: Acme"
    assert {row["stratum"] for row in items} == {"a", "b", "c", "unknown"}
    lines = users[0]["text"].splitlines()
    assert lines[0] == "history, oldest first:"
    assert 3 <= len(lines) - 1 <= 8


def test_more_rows_of_a_stratum_hold_the_fewer_and_probabilities_follow(spark):
    """What lets a second round keep every row of the first: the smallest keys are drawn."""
    random = np.random.default_rng(2)
    frame = candidates(spark, {"a": random.lognormal(0, 1, 60), "b": np.ones(20)})
    strata = allot(frame, 20, power=0.5, min_per_stratum=1)
    more = replace(strata, drawn={"a": strata.drawn["a"] + 9, "b": strata.drawn["b"]})
    first, second = ({row["id"]: row for row in draw(frame, of, seed=3).collect()} for of in (strata, more))
    assert set(first) < set(second)
    assert len(second) == len(first) + 9
    for key, row in first.items():
        before, after = row["inclusion_probability"], second[key]["inclusion_probability"]
        assert before < after <= 1 if row["stratum"] == "a" else before == after


def candidates(spark, weights):
    rows = [(f"{stratum}{n}", stratum, float(w)) for stratum, listed in weights.items() for n, w in enumerate(listed)]
    return spark.createDataFrame(rows, "id string, stratum string, weight double").coalesce(1).cache()


def test_probabilities_add_up_and_match_how_often_a_row_is_drawn(spark):
    """26 draws against π: each row's count lies within five standard deviations, all together within three.

    Thirteen copies of the strata, whose ids differ, are drawn from at once, under two seeds.
    """
    random = np.random.default_rng(0)
    weights = {"a": random.lognormal(0, 1.5, 40), "b": np.ones(10), "c": [1.0, 2.0]}
    one = allot(candidates(spark, weights), 20, power=0.5, min_per_stratum=1)
    copies, seeds = range(13), (0, 1)
    rounds = len(copies) * len(seeds)
    frame = candidates(spark, {f"{name}/{copy}/": listed for copy in copies for name, listed in weights.items()})
    strata = Strata(
        of_category={f"{name}/{copy}/": f"{name}/{copy}/" for name in weights for copy in copies},
        rows={f"{name}/{copy}/": one.rows[name] for name in weights for copy in copies},
        drawn={f"{name}/{copy}/": one.drawn[name] for name in weights for copy in copies},
    )
    drawn_by_seed = [draw(frame, strata, seed=seed).collect() for seed in seeds]
    assert len({frozenset(row["id"] for row in rows) for rows in drawn_by_seed}) == len(seeds)
    counts, probability = Counter(), {}
    in_a_draw = defaultdict(Counter)
    for seed, rows in zip(seeds, drawn_by_seed, strict=True):
        for row in rows:
            name, copy, number = row["id"].split("/")
            in_a_draw[seed, copy][name] += 1
            counts[name + number] += 1
            expected = probability.setdefault(name + number, row["inclusion_probability"])
            assert row["inclusion_probability"] == expected
    sizes = {tuple(sorted(of.items())) for of in in_a_draw.values()}
    assert len(in_a_draw) == rounds
    assert len(sizes) == 1
    drawn = dict(next(iter(sizes)))
    wanted = {name: 20 * len(listed) ** 0.5 / (40**0.5 + 10**0.5 + 2**0.5) for name, listed in weights.items()}
    assert drawn == {name: min(len(weights[name]), max(1, round(share))) for name, share in wanted.items()}
    assert all(probability[key] == 1 for key in probability if key[0] == "c")
    pi = np.array([probability[key] for key in sorted(probability)])
    seen = np.array([counts[key] for key in sorted(probability)])
    spread = np.sqrt(rounds * pi * (1 - pi)) + 1e-9
    assert np.all(np.abs(seen - rounds * pi)[pi < 1] < 5 * spread[pi < 1])
    assert abs(np.sum((seen - rounds * pi)[pi < 1])) < 3 * np.sqrt(np.sum(spread**2))


def test_probabilities_of_a_stratum_sum_to_its_sample(spark):
    """Seen through a sample that leaves out one row of each stratum: what is missing is that row's share."""
    random = np.random.default_rng(1)
    listed = random.lognormal(0, 2.0, 30)
    frame = candidates(spark, {"a": listed})
    rows = draw(frame, allot(frame, 29, power=1.0, min_per_stratum=1), seed=5).collect()
    rate = next(row["rate"] for row in rows)
    assert np.sum(1 - np.exp(-rate * listed)) == pytest.approx(29, abs=1e-6)
    assert all(0 < row["inclusion_probability"] <= 1 for row in rows)


def test_more_categories_than_rows_share_a_stratum(spark):
    frame = candidates(spark, {f"s{number:03d}": [1.0, 1.0] for number in range(100)} | {"big": [1.0] * 50})
    rows = draw(frame, allot(frame, 12, power=0.5, min_per_stratum=1), seed=0).collect()
    by_stratum = defaultdict(int)
    for row in rows:
        by_stratum[row["stratum"]] += 1
    assert len(rows) <= 16
    assert "big" in by_stratum
    assert "other" in by_stratum
