"""`msd publish` and `msd plan publication` as a person meets them."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from feature_repo.publication_plan import estimate
from feature_repo.redis_address import connect
from feature_repo.redis_server import running_redis
from pipeline import cli
from pipeline.config import Publication
from pipeline.errors import StageError
from pipeline.job import Job
from pipeline.source import parse_source
from pipeline.stages import BY_NAME

pytestmark = [pytest.mark.redis, pytest.mark.feast, pytest.mark.slow]

SOURCE = '[items]\npath = "log.csv"\n[events]\npath = "log.csv"\ntime = "time"\n'
FIRST, SECOND = "1" * 16, "2" * 16


@pytest.fixture(scope="module")
def twice(own_redis: None, build: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A world with two generations, the second one active."""
    world = build.make_world(tmp_path_factory.mktemp("twice") / "work")
    items, users = world.item_features(), world.user_features()
    for name in (FIRST, SECOND):
        world.publish(name, items=items, users=users)
    return world, items, users


def call(capsys: Any, *arguments: str) -> tuple[int, str]:
    """Exit code and everything said."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main(["publish", *arguments])
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return int(ended.value.code or 0), " ".join((said.out + said.err).split())


def test_generations_are_listed_switched_and_collected(twice: Any, capsys: Any):
    work = str(twice[0].workspace.root)
    code, said = call(capsys, "--list", "--work", work)
    assert code == 0
    assert f"{FIRST} previous 5eed0001 publication" in said
    assert f"{SECOND} active 5eed0001 publication" in said
    assert "40 items, 12 users" in said
    assert call(capsys, "--rollback", "--work", work) == (0, f"readers are pointed at the generation {FIRST} again")
    assert call(capsys, "--activate", "22", "--work", work)[1].endswith(SECOND)
    code, said = call(capsys, "--activate", "3", "--work", work)
    assert code == 2
    assert f"there are {FIRST} of the space 5eed0001cafe0000, complete; {SECOND}" in said
    assert call(capsys, "--activate", "", "--work", work)[0] == 2
    assert call(capsys, "--collect", "--work", work) == (0, "there was nothing to remove")


def test_wrong_calls_say_what_was_wanted(capsys: Any, tmp_path: Path):
    assert call(capsys, "--list", "--rollback", "--work", str(tmp_path))[0] == 2
    for option in (["--list"], ["--rollback"], ["--collect"], ["--activate", "1"]):
        code, said = call(capsys, *option, "--work", str(tmp_path / "nowhere"))
        assert code == 1
        assert "run: msd run publication" in said
    assert not list(tmp_path.iterdir())


def job(twice: Any, **settings: Any) -> Job:
    world, items, users = twice
    (world.workspace.root / "log.csv").write_text("user_id,item_id,title,time\n")
    return Job(
        stage=BY_NAME["publication"],
        config=Publication(**settings),
        source=parse_source("made up", SOURCE, world.workspace.root),
        inputs={"item_features": items, "user_features": users},
        output=world.workspace.dataset("publication", "3" * 16, None),
    )


def test_a_plan_is_measured_on_the_server_and_leaves_nothing_there(twice: Any):
    world, _, _ = twice
    receipt = world.workspace.dataset("publication", SECOND, None).details
    with running_redis(world.workspace.root) as redis, connect(redis) as client:
        before = {key: client.dump(key) for key in client.keys()}  # noqa: SIM118
        planned = estimate(job(twice), measure=False)
        client.config_set("maxmemory", client.info("memory")["used_memory"] + 2**20)
        told = " ".join(estimate(job(twice), measure=False).notes)
        client.config_set("maxmemory", 0)
        assert {key: client.dump(key) for key in client.keys()} == before  # noqa: SIM118
    assert (planned.rows, planned.rows_left) == (308, 52)
    assert planned.bytes == pytest.approx(receipt["online_bytes"], rel=0.1)
    assert planned.seconds is not None
    assert planned.seconds > 0
    assert "40 of 40 items at" in planned.notes[0]
    assert "MiB would be left" in told
    assert not (world.workspace.root / "publication" / ("3" * 16)).exists()


def test_a_plan_keeps_to_the_budget_and_to_narrow_vectors(twice: Any):
    whole = estimate(job(twice), measure=False)
    narrow = estimate(job(twice, precision="int8", dimensions=2), measure=False)
    assert narrow.bytes < whole.bytes
    tight = estimate(job(twice, memory_mib=whole.bytes / 2 / 2**20), measure=False)
    assert tight.bytes <= whole.bytes / 2 * 1.1
    assert tight.notes[1].startswith("12 of 12 users")
    assert tight.rows_left < whole.rows_left
    offline = estimate(job(twice, online=False), measure=False)
    assert (offline.rows_left, offline.bytes) == (0, 0)


def test_a_plan_of_features_that_are_not_made_names_the_command(twice: Any):
    world, items, _ = twice
    missing = world.workspace.dataset("user_features", "9" * 16, None)
    planned = job((world, items, missing))
    with pytest.raises(StageError, match="run: msd run user_features"):
        estimate(planned, measure=False)
