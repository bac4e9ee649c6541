"""The content store: what is put is there after any death, whoever wrote it and however often it is folded in."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.content_store import ContentStore

KEYS = st.text(min_size=1, max_size=20)
VALUES = st.dictionaries(st.text(max_size=5), st.one_of(st.integers(-(2**40), 2**40), st.text(max_size=20), st.none()))
WRITE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from pipeline.content_store import ContentStore
store = ContentStore(Path(sys.argv[1]), inbox="1" if sys.argv[2] == "inbox" else "")
for number in range(int(sys.argv[3])):
    store.put(f"{sys.argv[4]}{number}", {"number": number})
os.kill(os.getpid(), signal.SIGKILL)
"""


def write_and_die(folder, mode, count, prefix="k"):
    return subprocess.Popen([sys.executable, "-c", WRITE_AND_DIE, str(folder), mode, str(count), prefix])


@given(st.lists(st.tuples(KEYS, VALUES), max_size=20), st.sampled_from(["", "1"]))
def test_the_first_value_under_a_key_stays(tmp_path_factory, pairs, inbox):
    folder = tmp_path_factory.mktemp("store")
    wanted = {}
    with ContentStore(folder, inbox=inbox) as store:
        for key, value in pairs:
            store.put(key, value)
            wanted.setdefault(key, value)
        assert store.get_many([key for key, _ in pairs]) == wanted
    for _ in range(2):
        with ContentStore(folder) as store:
            assert store.get_many([*wanted, "nobody\x00"]) == wanted
            assert store.num_values() == len(wanted)


@pytest.mark.parametrize("mode", ["plain", "inbox"])
def test_a_killed_writer_loses_nothing_it_has_put(tmp_path, mode):
    writer = write_and_die(tmp_path, mode, 300)
    assert writer.wait() == -signal.SIGKILL
    with ContentStore(tmp_path) as store:
        assert store.num_values() == 300
        assert store.get_many(["k299"]) == {"k299": {"number": 299}}
    assert not list((tmp_path / "inbox").glob("*")) if mode == "inbox" else True


def test_writers_side_by_side_lose_nothing(tmp_path):
    writers = [write_and_die(tmp_path, mode, 200, prefix) for prefix, mode in (("a", "plain"), ("b", "plain"))]
    for writer in writers:
        writer.wait()
    with ContentStore(tmp_path) as store:
        assert store.num_values() == 400


def test_a_new_store_may_be_opened_by_many_at_once(tmp_path):
    folders = [tmp_path / str(number) for number in range(100)]
    together = threading.Barrier(4, timeout=30)

    def opens(prefix):
        for folder in folders:
            together.wait()
            with ContentStore(folder) as store:
                store.put(str(prefix), {})

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(opens, prefix) for prefix in range(4)]:
            done.result()
    for folder in folders:
        with ContentStore(folder) as store:
            assert store.num_values() == 4


def test_a_torn_last_line_is_left_out_and_a_log_at_work_is_left_alone(tmp_path):
    with ContentStore(tmp_path, inbox="1") as worker:
        worker.put("whole", {"a": 1})
        with ContentStore(tmp_path) as store:
            assert store.get_many(["whole"]) == {}
        log = next((tmp_path / "inbox").glob("*.jsonl"))
    with log.open("a", encoding="utf-8") as file:
        file.write('["torn", {"a"')
    with ContentStore(tmp_path) as store:
        assert store.get_many(["whole", "torn"]) == {"whole": {"a": 1}}
    assert not log.exists()


def test_a_worker_reads_what_was_there_before_it_and_what_it_put(tmp_path):
    with ContentStore(tmp_path) as store:
        store.put("old", {"a": 1})
        store.note("throughput", {"rows": 3})
    with ContentStore(tmp_path, inbox="1") as worker:
        worker.put("new", {"a": 2})
        assert worker.get_many(["old", "new", "none"]) == {"old": {"a": 1}, "new": {"a": 2}}
        assert worker.noted("throughput") == {"rows": 3}


def test_a_worker_goes_on_where_the_killed_one_with_its_share_was(tmp_path):
    write_and_die(tmp_path, "inbox", 5).wait()
    with ContentStore(tmp_path, inbox="1") as again, ContentStore(tmp_path, inbox="11") as other:
        assert again.get_many(["k0", "k4"]) == {"k0": {"number": 0}, "k4": {"number": 4}}
        assert other.get_many(["k0", "k4"]) == {}


def test_thousands_of_keys_are_one_call(tmp_path):
    with ContentStore(tmp_path) as store:
        for number in range(1200):
            store.put(str(number), {"n": number})
        assert len(store.get_many([str(number) for number in range(2000)])) == 1200
    assert sorted(os.listdir(tmp_path)) == ["index.sqlite", "opening.lock"]
