"""Days of a small world through the gate: what opens it, what closes it, and what readers have afterwards."""

import json
import shutil
import time

import pytest
from gated_world import GatedWorld

from feature_repo.gate import active_generation
from feature_repo.redis_address import connect
from feature_repo.redis_server import running_redis
from pipeline import cli
from pipeline.call import plan_of
from pipeline.storage import Workspace

pytestmark = [pytest.mark.redis, pytest.mark.feast, pytest.mark.slow]

FIRST, SECOND, WORSE = "2024-03-03", "2024-03-04", "2024-03-05"


@pytest.fixture(scope="module", autouse=True)
def own_redis():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("REDIS_URL", raising=False)
        patch.delenv("MSD_PROJECT", raising=False)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two good days and one whose vectors show nothing, all online; readers have the first."""
    world = GatedWorld(tmp_path_factory.mktemp("gated"))
    world.make_day(FIRST, events=40)
    world.make_day(SECOND, events=50)
    world.make_day(WORSE, events=55, shows_traits=False)
    for day in (FIRST, SECOND, WORSE):
        assert called(world, "publish", "--date", day, "--no-activate") == 0
    return world


@pytest.fixture
def world(made, tmp_path):
    """A copy of its own of the world, whose Redis loads what the other saved."""
    copy = GatedWorld(tmp_path)
    shutil.copytree(made.work, copy.work)
    (copy.work / "redis" / "port").unlink(missing_ok=True)
    for record in (copy.work / "partitions").glob("*.json"):
        told = json.loads(record.read_text())
        record.write_text(json.dumps(told | {"source": str(copy.source)}))
    return copy


def called(world, *arguments):
    """The exit code."""
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, "--work", str(world.work)])
    return int(ended.value.code or 0)


def judged(world, capsys, day, *options):
    """Exit code, verdict by check, and what went to stderr."""
    capsys.readouterr()
    code = called(world, "gate", "--date", day, "--json", *options)
    said = capsys.readouterr()
    verdict = json.loads(said.out.splitlines()[-1])
    assert verdict["is_open"] == (code == 0)
    assert json.loads((world.work / "gates" / f"{day}.json").read_text()) == verdict
    return code, {check["name"]: check for check in verdict["checks"]}, " ".join(said.err.split())


def readers_have(world):
    active = active_generation(Workspace(world.work))
    return None if active is None else active.generation


def generation_of(world, day):
    return plan_of(world.work, None, None, None, day).dataset("publication").fingerprint


def test_days_go_through_the_gate_and_a_worse_one_stops_there(world, capsys):
    assert readers_have(world) is None
    code, checks, _ = judged(world, capsys, FIRST)
    assert code == 0
    assert checks["canary"]["facts"] == {"compared": "nothing active"}
    assert called(world, "publish", "--date", FIRST, "--activate", "this") == 0
    assert readers_have(world) == generation_of(world, FIRST)

    # Two spaces as good as each other differ by chance alone; so few test rows leave room for it.
    code, checks, _ = judged(world, capsys, SECOND, "--max-auc-loss", "0.06")
    assert code == 0
    facts = checks["canary"]["facts"]
    assert facts["compared_rows"] == facts["rows"] == 600
    assert facts["interval"][0] < checks["canary"]["figure"] < facts["interval"][2]
    for _ in range(2):
        assert called(world, "publish", "--date", SECOND) == 0
        assert readers_have(world) == generation_of(world, SECOND)

    code, checks, said = judged(world, capsys, WORSE)
    assert code == 1
    assert [name for name, check in checks.items() if not check["passed"]] == ["canary"]
    assert checks["canary"]["facts"]["interval"][0] > 0.1
    assert "the gate is closed" in said
    for options in ((), ("--activate", "this"), ("--activate", generation_of(world, WORSE)[:6])):
        assert called(world, "publish", "--date", WORSE, *options) == 1
    assert readers_have(world) == generation_of(world, SECOND)
    assert called(world, "canary", "--date", SECOND) == 0

    assert called(world, "publish", "--date", WORSE, "--activate", "this", "--despite-gate") == 0
    assert readers_have(world) == generation_of(world, WORSE)
    for _ in range(2):
        assert called(world, "publish", "--date", WORSE, "--rollback") == 0
        assert readers_have(world) == generation_of(world, SECOND)


def test_each_bound_closes_the_gate_and_judging_again_opens_it(world, capsys):
    code, checks, said = judged(world, capsys, FIRST, "--min-f1", "0.61")
    assert code == 1
    assert "phrase F1 (95% interval 0.500 to 0.700) is 0.6, wanted 0.61 or more" in said
    assert called(world, "publish", "--date", FIRST) == 1
    assert readers_have(world) is None
    assert judged(world, capsys, FIRST, "--min-f1", "0.6")[0] == 0

    vectors = plan_of(world.work, None, None, None, FIRST).dataset("item_features").folder / "vectors.npy"
    whole = vectors.read_bytes()
    vectors.write_bytes(whole[:128] + b"\0\0\x80\x4f" * ((len(whole) - 128) // 4))
    code, checks, _ = judged(world, capsys, FIRST)
    assert [name for name, check in checks.items() if not check["passed"]] == ["vectors"]
    assert "collapsed" in checks["vectors"]["told"]
    vectors.write_bytes(whole)
    assert judged(world, capsys, FIRST)[0] == 0


def test_an_older_day_does_not_take_readers_from_a_later_one(world, capsys):
    assert called(world, "publish", "--date", SECOND) == 0
    capsys.readouterr()
    assert called(world, "publish", "--date", FIRST, "--activate", "this") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert f"of {SECOND}, which is later than {FIRST}, and stay there" in said
    assert readers_have(world) == generation_of(world, SECOND)
    assert called(world, "publish", "--date", FIRST, "--rollback") == 0
    assert readers_have(world) == generation_of(world, SECOND)
    assert called(world, "publish", "--activate", generation_of(world, FIRST)) == 0
    assert readers_have(world) == generation_of(world, FIRST)


def test_files_of_the_active_generation_that_are_gone_close_the_gate(world, capsys):
    assert called(world, "publish", "--date", FIRST) == 0
    shutil.rmtree(plan_of(world.work, None, None, None, FIRST).dataset("user_features").folder)
    code, checks, _ = judged(world, capsys, SECOND)
    assert code == 1
    assert "--allow-missing" in checks["canary"]["told"]
    assert checks["canary"]["figure"] is None
    assert judged(world, capsys, SECOND, "--allow-missing")[0] == 0


def test_the_same_vectors_lose_nothing_and_nothing_is_trained(world, capsys):
    assert called(world, "publish", "--date", FIRST) == 0
    started = time.monotonic()
    code, checks, _ = judged(world, capsys, FIRST, "--max-auc-loss", "0")
    assert (code, checks["canary"]["figure"]) == (0, 0)
    assert not (world.work / "canary_model").exists()
    assert time.monotonic() - started < 10


def test_a_server_that_lost_everything_gets_the_day_back(world):
    assert called(world, "publish", "--date", FIRST) == 0
    with running_redis(world.work) as redis, connect(redis) as client:
        client.flushall()
    assert called(world, "canary", "--date", FIRST) == 1
    assert called(world, "publish", "--date", FIRST, "--activate", "this") == 0
    assert called(world, "canary", "--date", FIRST) == 0


def test_wrong_calls_are_refused(world, capsys):
    for wrong in (
        ("gate", "--date", FIRST, "--min-f1", "2"),
        ("gate", "--date", FIRST, "--max-auc-loss", "nan"),
        ("gate", "--date", "yesterday"),
        ("canary", "--min-coverage", "-1"),
        ("canary", "--max-age-hours", "nan"),
        ("canary", "--rows", "0"),
        ("publish", "--date", FIRST, "--no-activate", "--activate", "this"),
    ):
        assert called(world, *wrong) == 2, wrong
    for early in (("gate", "--date", "2024-03-09"), ("publish", "--date", "2024-03-09"), ("canary",)):
        assert called(world, *early) == 1, early
    assert "Traceback" not in capsys.readouterr().err
