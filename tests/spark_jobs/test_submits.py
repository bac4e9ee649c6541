"""Every job's dataset by spark-submit on a standalone cluster, its code from the archive alone, as `msd run` makes it.

What a submit costs is a driver, executors and the first query, so that most datasets are made by a few submits of
`run.py`; of each kind of job one is submitted by its own file.
"""

import importlib
import os
import runpy
import sys
from dataclasses import replace

import numpy as np
import pytest
from standalone_cluster import standalone_cluster
from submitted_jobs import BareMachine, SmallWorld, make_here

from feature_repo.redis_server import running_redis
from pipeline.stages import BY_NAME, Kind, with_ancestors
from spark_jobs.package import jobs

pytestmark = [
    pytest.mark.spark,
    pytest.mark.redis,
    pytest.mark.feast,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
]

SUBMITS = (
    ("items",),
    (
        *("interactions", "users", "item_stats", "user_stats", "histories", "context_texts", "prompts"),
        "teacher_outputs",
    ),
    ("student",),
    ("item_vectors",),
    ("user_vectors", "context_vectors", "item_text_vectors", "user_text_vectors", "context_text_vectors"),
    ("publication", "examples"),
    ("tuned_item_vectors", "tuned_user_vectors", "tuned_context_vectors"),
    ("tuned_publication", "audit", "ctr_model"),
)
"""One of a single name runs that job's file, the others `run.py`; what no job makes is made between them."""
ON_BOTH_WORKERS = ("interactions", "item_vectors", "publication")
"""Submits of these take two executors; of the others one, which costs more to start than it works."""
TOLERANCE = 2e-3
"""Of a vector's component: threads add up in another order."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return SmallWorld(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    return BareMachine(tmp_path_factory.mktemp("machine"))


@pytest.fixture(scope="module")
def alone(world):
    """The same datasets as `msd run` makes them."""
    plan = world.plan("alone")
    make_here(plan, *jobs())
    return plan


def test_every_stage_of_tables_and_every_row_wise_one_is_a_job():
    made_by_spark = {stage.name for stage in BY_NAME.values() if stage.kind in (Kind.TABLE, Kind.ROWS)}
    assert made_by_spark | {"student", "ctr_model", "publication", "tuned_publication"} == set(jobs())


@pytest.mark.parametrize("name", sorted(jobs()))
def test_each_job_is_a_file_that_submits_its_own_dataset(name, monkeypatch, capsys):
    path = jobs()[name]
    monkeypatch.setattr(sys, "argv", [path.name, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert ended.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"spark-submit spark_jobs/{name}.py" in said
    assert BY_NAME[name].summary in said
    has_own = hasattr(importlib.import_module(f"spark_jobs.{name}"), "execute")
    assert f'submit("{name}", execute)' in path.read_text() if has_own else f'submit("{name}")' in path.read_text()


def test_every_job_makes_on_a_cluster_what_msd_makes(world, machine, alone, monkeypatch):
    plan = world.plan("there")
    assert sorted(name for names in SUBMITS for name in names) == sorted(jobs())
    with running_redis(world.folder / "there") as redis:
        monkeypatch.setenv("REDIS_URL", f"redis://{redis.host}:{redis.port}/0")
        with standalone_cluster(world.folder) as cluster:
            for names in SUBMITS:
                make_between(plan, names)
                cores = {"spark.cores.max": "2" if set(names) & set(ON_BOTH_WORKERS) else "1"}
                job, stages = (names[0], ()) if len(names) == 1 else ("run", names)
                machine.submit(cluster.master, job, [*stages, *world.words("there")], cores)
    for name in jobs():
        assert plan.dataset(name).manifest is not None, f"{name} is not committed"
        assert_same(plan.dataset(name), alone.dataset(name))


def make_between(plan, names):
    """Makes here what the jobs need and no job makes."""
    needed = [stage for stage in with_ancestors(names, plan.stages) if stage.name not in jobs()]
    missing = [stage.name for stage in needed if plan.dataset(stage.name).manifest is None]
    if missing:
        make_here(plan, *missing)


def test_jobs_make_the_same_in_local_mode(world, machine, alone):
    """Of inputs that `msd run` made; in a work folder from which their own datasets are taken away."""
    names = ("items", "item_vectors")
    before = {}
    for name in names:
        folder = alone.dataset(name).folder
        before[name] = folder.rename(folder.with_name("before"))
    machine.submit("local[2]", "run", [*names, *world.words("alone")], {})
    for name in names:
        made = world.plan("alone").dataset(name)
        assert_same(made, replace(made, folder=before[name]))


def test_an_executor_without_the_archive_would_not_find_the_code(machine):
    done = os.spawnl(os.P_WAIT, machine.python, "python", "-c", "import pyspark, torch\nimport pipeline")
    assert done == 1, "the bare machine has the project, so that nothing was shown"


def assert_same(there, here):
    counts = ("fingerprint", "rows_in", "rows_ok", "rows_rejected", "rows_skipped", "reasons")
    assert {name: there.manifest[name] for name in counts} == {name: here.manifest[name] for name in counts}
    if there.schema is None:
        return
    ours, theirs = there.table(), here.table()
    assert ours.num_rows == theirs.num_rows
    vectors = [name for name in ours.column_names if name == "vector"]
    assert ours.drop(vectors).equals(theirs.drop(vectors)), there.name
    for name in vectors if ours.num_rows else ():
        one, other = (np.stack(table.column(name).to_pylist()) for table in (ours, theirs))
        np.testing.assert_allclose(one, other, atol=TOLERANCE)
