"""Every job by spark-submit on a standalone cluster, its code from the archive alone, against what `msd run` makes."""

import os

import numpy as np
import pytest
from standalone_cluster import standalone_cluster
from submitted_jobs import BareMachine, SmallWorld, make_all, make_here

from feature_repo.redis_server import running_redis
from pipeline.stages import BY_NAME, Kind, with_ancestors
from spark_jobs.package import jobs

pytestmark = [
    pytest.mark.spark,
    pytest.mark.redis,
    pytest.mark.feast,
    pytest.mark.slow,
    pytest.mark.timeout(2400),
]  # some thirty submits, one after the other

ENDS = ("audit", "ctr_model", "publication", "tuned_publication")
"""Every dataset that a job makes stands before one of these, or is one."""
ON_BOTH_WORKERS = ("interactions", "teacher_outputs", "item_vectors", "publication")
"""The others take one worker, beside another job on the other one: executors cost more to start than they work."""
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
    make_here(plan, *ENDS)
    return plan


def test_every_stage_of_tables_and_every_row_wise_one_is_a_job():
    made_by_spark = {stage.name for stage in BY_NAME.values() if stage.kind in (Kind.TABLE, Kind.ROWS)}
    assert made_by_spark | {"student", "ctr_model", "publication", "tuned_publication"} == set(jobs())


def test_every_job_makes_on_a_cluster_what_msd_makes(world, machine, alone, monkeypatch):
    plan = world.plan("there")
    names = [stage.name for stage in with_ancestors(list(ENDS))]
    submitted = [name for name in names if name in jobs()]
    assert set(jobs()) == set(submitted)
    with running_redis(world.folder / "there") as redis:
        monkeypatch.setenv("REDIS_URL", f"redis://{redis.host}:{redis.port}/0")
        with standalone_cluster(world.folder) as cluster:

            def make(name):
                if name in submitted:
                    cores = "2" if name in ON_BOTH_WORKERS else "1"
                    machine.submit(cluster.master, name, world.words("there"), {"spark.cores.max": cores})
                else:
                    make_here(plan, name)

            make_all(plan, names, make, lanes=2)
    for name in submitted:
        assert_same(plan.dataset(name), alone.dataset(name))


@pytest.mark.parametrize("name", ["items", "item_vectors"])
def test_a_job_makes_the_same_in_local_mode(world, machine, alone, name):
    """Of inputs that `msd run` made; in a work folder from which its own dataset is taken away."""
    dataset = alone.dataset(name)
    before = dataset.folder.rename(dataset.folder.with_name("before"))
    machine.submit("local[2]", name, world.words("alone"), {})
    made = world.plan("alone").dataset(name)
    assert_same(made, type(made)(name=name, fingerprint=made.fingerprint, folder=before, schema=made.schema))


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
