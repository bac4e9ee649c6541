"""One person taken out of a flow that ran to its publication: nothing of them is left, and nobody else lost a byte."""

import json
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_shop import OWN_QUERY, USERS

from pipeline.dataset_erasure import datasets
from pipeline.erased import read_erased
from pipeline.errors import BusyError
from pipeline.person import Person
from pipeline.storage import file_digest, held_by_us

pytestmark = [
    pytest.mark.spark,
    pytest.mark.redis,
    pytest.mark.feast,
    pytest.mark.slow,
    pytest.mark.xdist_group("shop"),
]

ERASED, NEIGHBOUR = "ann1", "ann10"
ODD = 'O"Neil, Ann'


@pytest.fixture(scope="module")
def erased(shop, tmp_path_factory):
    """A copy from which ann1 was erased by the command; tests only read it."""
    copy = shop.copy(tmp_path_factory.mktemp("erased") / "shop")
    ended = copy.msd("erase", "user", ERASED, "--yes")
    assert ended.returncode == 0, ended.stderr + ended.stdout
    assert "user_vectors" in ended.stdout
    return copy


@pytest.fixture
def copied(shop, tmp_path):
    return shop.copy(tmp_path / "shop")


def words_left(root, user_id):
    """Files below a folder that hold the id as a word, by a plain reading of every byte and every Parquet value."""
    word = Person(user_id).word
    found = []
    for path in (path for path in root.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.suffix == ".parquet":
            content += json.dumps(pq.read_table(path, partitioning=None).to_pylist(), default=str).encode()
        if word.search(content):
            found.append(path)
    return found


def others(rows, user_id):
    """Rows that have nothing to do with the user, written so that two tables can be compared."""
    word = Person(user_id).word
    return [row for row in rows if not word.search(json.dumps(row, default=str).encode())]


def test_nothing_is_left_and_nobody_else_changes(shop, erased):
    check_erased(shop, erased, ERASED)


def test_ids_of_other_letters_go_just_as_well(shop, copied):
    for user_id in (ODD, "用户七"):
        before, after = copied.erase(user_id)
        assert before.found > 50
        assert after.is_clean, after
        assert words_left(copied.folder, user_id) == []
    (users,) = copied.rows("users").values()
    assert {row["user_id"] for row in users} == set(USERS) - {ODD, "用户七"}


def check_erased(shop, copied, user_id):
    assert words_left(copied.folder, user_id) == []
    for each in datasets(shop.work):
        before, after = shop.rows(each.name), copied.rows(each.name)
        assert before.keys() == after.keys() or each.name == "ctr_records"
        for path in before.keys() & after.keys():
            wanted = others(before[path], user_id)
            left = [row for row in after[path] if row.get("user_id", "x") != ""]
            if each.name in ("context_texts", "context_vectors"):
                assert len(before[path]) - len(left) == 1, "the query that nobody else asked"
                wanted = [row for row in wanted if row["text_id"] in {kept["text_id"] for kept in left}]
            assert repr(left) == repr(wanted), path


def test_rows_that_are_named_by_number_stay_as_blank_ones(shop, erased):
    (before,), (after,) = shop.rows("histories").values(), erased.rows("histories").values()
    assert len(before) == len(after)
    theirs = [number for number, row in enumerate(before) if row["user_id"] == ERASED]
    assert theirs
    for number in theirs:
        assert not any(value for name, value in after[number].items() if name != "snapshot_at")
        assert after[number]["snapshot_at"].timestamp() == 0
    (path,) = (key for key in erased.rows("user_features") if key.endswith("rows.parquet"))
    vectors_ND = np.load((erased.work / path).with_name("vectors.npy"))
    blank_N = np.array([row["user_id"] == "" for row in erased.rows("user_features")[path]])
    was_theirs_N = np.array([row["user_id"] == ERASED for row in shop.rows("user_features")[path]])
    assert (blank_N == was_theirs_N).all()
    assert (vectors_ND.any(axis=1) == ~blank_N).all()
    assert [row["vector_row"] for row in erased.rows("user_features")[path]] == list(range(len(blank_N)))


def test_manifests_vouch_for_what_is_there(erased):
    check_manifests(erased)
    touched = {each.name for each in datasets(erased.work) if each.manifest.get("erased")}
    assert touched >= {"interactions", "users", "histories", "user_vectors", "user_features", "examples", "publication"}
    assert touched.isdisjoint({"items", "item_vectors", "item_features", "item_stats"})


def check_manifests(shop):
    for each in datasets(shop.work):
        manifest = each.manifest
        assert manifest is not None, each.name
        assert {name: file_digest(each.folder / name) for name in manifest["files"]} == manifest["files"], each.name
        accounted = manifest["rows_ok"] + manifest["rows_rejected"] + manifest["rows_skipped"]
        assert manifest["rows_in"] == accounted, each.name
        if each.schema is not None and "reason" not in each.schema.names:
            assert each.num_rows() == manifest["rows_ok"], each.name


def test_completions_go_from_the_disk_and_the_store_still_serves_the_others(shop, erased):
    (outputs,) = shop.rows("teacher_outputs").values()
    (row,) = [row for row in outputs if row["level"] == "user" and row["entity_id"] == ERASED]
    path = Path("content_store/teacher_outputs/index.sqlite")
    kept = {}
    for work in (shop.work, erased.work):
        with closing(sqlite3.connect(work / path)) as index:
            kept[work] = dict(index.execute("SELECT key, value FROM kept"))
    gone = kept[shop.work].keys() - kept[erased.work].keys()
    assert gone == {row["content_key"]}
    assert {key: kept[shop.work][key] for key in kept[erased.work]} == kept[erased.work]
    said = json.loads(kept[shop.work][row["content_key"]])["text"]
    assert json.dumps(said)[1:-1].encode() in (shop.work / path).read_bytes()
    assert json.dumps(said)[1:-1].encode() not in (erased.work / path).read_bytes()


def test_feast_gives_nothing_for_them_and_the_others_as_before(shop, erased):
    from feature_repo.redis_server import running_redis
    from feature_repo.store import open_store, quiet_feast, write_settings

    answers = []
    for work in (shop.work, erased.work):
        with running_redis(work) as redis, quiet_feast():
            write_settings(work / "feast", redis)
            store = open_store(work / "feast")
            answer = store.get_online_features(
                features=store.get_feature_service("ctr"),
                entity_rows=[{"user_id": user, "item_id": "i1"} for user in (ERASED, NEIGHBOUR, ODD)],
                full_feature_names=True,
            )
            answers.append({name: values for name, values in answer.to_dict().items() if not name.startswith("item")})
    before, after = answers
    assert all(values[0] is not None for values in before.values())
    assert all(values[0] is None for name, values in after.items() if name != "user_id")
    assert {name: values[1:] for name, values in before.items()} == {n: v[1:] for n, v in after.items()}


def test_the_next_run_goes_on_without_them_even_when_the_export_brings_them_back(shop, erased, tmp_path):
    again = erased.copy(tmp_path / "again")
    shutil.copytree(shop.folder / "files", again.folder / "files", dirs_exist_ok=True)
    ended = again.msd("run", "user_stats")
    assert ended.returncode == 0, ended.stderr
    for name in ("interactions", "users", "user_stats"):
        (newest,) = [
            each
            for each in datasets(again.work)
            if each.name == name and not (erased.work / name / each.fingerprint).exists()
        ]
        ids = set(newest.table().column("user_id").to_pylist())
        assert ids == set(USERS) - {ERASED}
        manifest = newest.manifest
        assert manifest["rows_in"] == manifest["rows_ok"] + manifest["rows_rejected"] + manifest["rows_skipped"]
    assert words_left(again.work, ERASED) == []


def test_a_dry_run_changes_nothing_and_nobody_is_erased_unasked(copied):
    before = state(copied)
    ended = copied.msd("erase", "user", ERASED)
    assert (ended.returncode, "user_vectors" in ended.stdout) == (2, True)
    assert state(copied) == before


def test_an_unknown_id_is_found_nowhere_and_goes_on_the_list(copied):
    before = state(copied)
    found, after = copied.erase("nobody")
    assert (found.found, after.is_clean) == (0, True)
    assert "nobody" in read_erased(copied.work)
    left = state(copied)
    assert {path.relative_to(copied.work).parts[0] for path in left.keys() ^ before.keys()} <= {
        "erased.json",
        "erasures",
    }
    assert {path: digest for path, digest in left.items() if path in before} == before


def state(shop):
    """Digests of all files but those that any reading call may write: locks, Redis, the cache of digests."""
    paths = [path for path in shop.folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    passing = {"redis", "content_digests.json", "feature_store.yaml"}
    return {path: file_digest(path) for path in paths if not passing & {*path.parts}}


def test_killed_anywhere_and_run_again_it_ends_in_the_same_state(erased, copied, preloaded_msd):
    rng, kills = random.Random(11), 0
    command = [*preloaded_msd, "erase", "user", ERASED, "--yes", *copied.options, "--work", str(copied.work)]
    for _ in range(4):
        before = receipts(copied)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            while receipts(copied) == before and process.poll() is None:
                time.sleep(0.005)
            time.sleep(rng.uniform(0.02, 0.5))
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
            # Until nobody has the other end any more.
            process.stdout.read()
    assert kills, "every erasure was quicker than its kill"
    assert copied.erase(ERASED)[1].is_clean
    assert words_left(copied.folder, ERASED) == []
    assert contents(copied) == contents(erased)
    check_manifests(copied)


def receipts(shop):
    """Written when an erasure begins, and at its end."""
    return [(path, path.stat().st_mtime_ns) for path in (shop.work / "erasures").glob("*.json")]


def contents(shop):
    """What every file says but those that tell of times, places and locks."""
    said = {}
    for path in sorted(path for path in shop.folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(shop.folder))
        if path.suffix == ".parquet":
            said[name] = pq.read_table(path, partitioning=None).to_pylist()
        elif path.suffix in (".csv", ".jsonl", ".npy"):
            said[name] = path.read_bytes()
    return {name: repr(value) for name, value in said.items()}


def test_an_erasure_disturbs_no_run(copied):
    before = state(copied)
    users = next(each for each in datasets(copied.work) if each.name == "users")
    with held_by_us(users), pytest.raises(BusyError, match="is being made by another run"):
        copied.erase(ERASED)
    assert state(copied) == before


def test_models_are_named_and_deleted_on_request(erased, copied):
    _, after = copied.erase(ERASED, models=True)
    assert [name.split("/")[0] for name in after.models] == ["student"]
    assert [each for each in datasets(copied.work) if each.name == "student"] == []
    assert [each for each in datasets(erased.work) if each.name == "student"]
    (receipt,) = [json.loads(path.read_text()) for path in (copied.work / "erasures").glob("*.json")]
    assert (receipt["state"], receipt["models"]) == ("done", after.models)


def test_the_query_of_others_stays(shop, erased):
    assert OWN_QUERY.format(user=ERASED) in str(shop.rows("context_texts"))
    texts = pa.array([row["text"] for row in next(iter(erased.rows("context_texts").values()))]).to_pylist()
    assert OWN_QUERY.format(user=ERASED) not in texts
    assert {OWN_QUERY.format(user=NEIGHBOUR), "amber"} <= set(texts)


def test_every_server_that_was_published_to_must_be_reached_and_other_projects_keep_their_keys(
    copied, tmp_path, monkeypatch
):
    from feature_repo.feast_format import redis_keys
    from feature_repo.redis_address import connect
    from feature_repo.redis_server import running_redis

    monkeypatch.delenv("REDIS_URL", raising=False)
    (receipt,) = copied.work.glob("publication/*/manifest.json")
    receipt.write_text(receipt.read_text().replace('"redis": "own"', '"redis": "url"'))
    _, after = copied.erase(ERASED)
    assert not after.is_clean
    assert ["REDIS_URL" in sentence for sentence in after.missed] == [True]
    with running_redis(tmp_path / "elsewhere") as redis, connect(redis) as client:
        keys = [redis_keys("user_id", [ERASED], project)[0] for project in ("msd", "xmsd", "ms")]
        for key in keys:
            client.hset(key, "field", "value")
        monkeypatch.setenv("REDIS_URL", redis.shown)
        before, after = copied.erase(ERASED)
        assert (before.found, after.is_clean) == (1, True), after
        assert [client.exists(key) for key in keys] == [0, 1, 1]
