"""Kept vectors: what was kept is found byte for byte, torn or foreign files are named and never read as vectors."""

import multiprocessing
import shutil
import signal
import subprocess
import sys
import time

import kept_texts
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kept_texts import DIM, TEXTS, add_share, keys, vectors

from pipeline import kept_vectors, vector_store
from pipeline.errors import BusyError
from pipeline.kept_vectors import KeptVectors
from pipeline.texts import text_id
from pipeline.vector_store import KEY, VectorStore, content_hashes


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "space" / "reading"


@pytest.fixture
def store(folder):
    opened = VectorStore(folder, DIM)
    yield opened
    opened.close()


def found_by_another(folder, dimension):
    other = VectorStore(folder, dimension)
    found = other.find(keys(*TEXTS)).is_found_N
    other.close()
    return found


def segments(folder):
    return sorted(path for path in folder.iterdir() if path.name[0] != ".")


def test_a_key_begins_with_the_content_hash():
    texts = ["", "naïve ✓ 漢字", "x" * 100_000]
    assert content_hashes(keys(*texts)) == [text_id(text) for text in texts]
    assert content_hashes(keys()) == []


@given(st.lists(st.tuples(st.booleans(), st.lists(st.text(max_size=3), max_size=12)), max_size=12))
def test_the_store_is_a_dictionary_whose_first_values_stay(tmp_path_factory, steps):
    folder, reference = tmp_path_factory.mktemp("store"), {}
    for number, (is_compacted, texts) in enumerate(steps):
        distinct = list(dict.fromkeys(texts))
        with KeptVectors(folder) as kept:
            store = kept.store("space", "reading", DIM)
            found = store.find(keys(*distinct))
            assert found.is_found_N.tolist() == [text in reference for text in distinct]
            wanted = np.array([reference.get(text, np.zeros(DIM)) for text in distinct], np.float32).reshape(-1, DIM)
            assert found.vectors_ND.tobytes() == wanted.tobytes()
            made = vectors(*distinct) + np.float32(number)
            for text, vector in zip(distinct, store.add(keys(*distinct), made), strict=True):
                assert (reference.setdefault(text, vector) == vector).all()
        if is_compacted:
            kept_vectors.compact(folder)


def test_keys_with_zero_bytes_are_keys_like_others(store):
    odd = np.array([b"a" + bytes(15), b"a\0b" + bytes(13), bytes(16), b"\xff" * 16], dtype=KEY)
    made = np.arange(12, dtype=np.float32).reshape(4, DIM)
    store.add(odd, made)
    assert (store.find(odd[::-1]).vectors_ND == made[::-1]).all()
    assert not store.find(np.array([b"a\0c" + bytes(13), b"b" + bytes(15)], dtype=KEY)).is_found_N.any()


def test_many_small_segments_become_one_and_nothing_changes(folder, store):
    for text in TEXTS:
        store.add(keys(text), vectors(text))
    store.add(keys(*TEXTS[:5]), vectors(*TEXTS[:5]) + 1)
    assert len(segments(folder)) == len(TEXTS) + 1
    store.compact()
    assert len(segments(folder)) == 1
    assert store.num_vectors() == len(TEXTS)
    assert store.find(keys(*TEXTS)).vectors_ND.tobytes() == vectors(*TEXTS).tobytes()
    store.add(keys("another"), vectors("another"))
    assert store.find(keys("another")).is_found_N.all()


def test_merged_segments_stay_below_their_size_and_in_their_order(folder, store):
    for start in range(0, len(TEXTS), 4):
        store.add(keys(*TEXTS[start : start + 4]), vectors(*TEXTS[start : start + 4]))
    store.add(keys(TEXTS[0]), vectors("later"))
    store.compact(merged_bytes=4 * DIM * 10)
    assert [len(np.load(path / "keys.npy")) for path in segments(folder)] == [8, 8, 8, 8, 9]
    assert store.find(keys(*TEXTS)).vectors_ND.tobytes() == vectors(*TEXTS).tobytes()


def test_a_large_segment_is_copied_only_when_a_fair_share_is_new(folder, store):
    store.add(keys(*TEXTS), vectors(*TEXTS))
    names = [f"new {number}" for number in range(20)]
    for name in names[:7]:
        store.add(keys(name), vectors(name))
    store.compact()
    assert [len(np.load(path / "keys.npy")) for path in segments(folder)] == [40, 7]
    for name in names[7:13]:
        store.add(keys(name), vectors(name))
    store.compact()
    assert [len(np.load(path / "keys.npy")) for path in segments(folder)] == [53]
    found = store.find(keys(*TEXTS, *names[:13]))
    assert found.vectors_ND.tobytes() == vectors(*TEXTS, *names[:13]).tobytes()


def test_nothing_is_merged_or_removed_while_another_process_reads(folder, store):
    for text in TEXTS:
        store.add(keys(text), vectors(text))
    other = VectorStore(folder, DIM)
    store.compact()
    assert len(segments(folder)) == len(TEXTS)
    with pytest.raises(BusyError, match="in use by another run"):
        kept_vectors.remove(folder.parent.parent, [bytes.fromhex(text_id(TEXTS[0]))])
    other.close()
    assert store.find(keys(TEXTS[3])).is_found_N.all()
    store.compact()
    assert len(segments(folder)) == 1


@pytest.mark.parametrize("name", ["vectors", "keys", "sums"])
@pytest.mark.parametrize("damage", ["cut", "empty", "gone", "noise"])
def test_a_torn_segment_is_named_and_never_read(folder, store, capfd, name, damage):
    store.add(keys(*TEXTS[:20]), vectors(*TEXTS[:20]))
    store.add(keys(*TEXTS[20:]), vectors(*TEXTS[20:]))
    store.close()
    path = segments(folder)[0] / f"{name}.npy"
    content = path.read_bytes()
    spoilt = {"cut": content[:-7], "empty": b"", "noise": content[:-30] + bytes(30)}
    path.unlink() if damage == "gone" else path.write_bytes(spoilt[damage])
    reopened = VectorStore(folder, DIM)
    found = reopened.find(keys(*TEXTS))
    assert (found.vectors_ND[found.is_found_N] == vectors(*TEXTS)[found.is_found_N]).all()
    assert found.is_found_N[20:].all()
    assert not (found.is_found_N[:20].all() if damage == "noise" else found.is_found_N[:20].any())
    # A key that is another one now is one that nobody asks for.
    assert "00000000.0000 is damaged" in capfd.readouterr().err or (name, damage) == ("keys", "noise")
    missing = [text for text, is_found in zip(TEXTS, found.is_found_N, strict=True) if not is_found]
    reopened.add(keys(*missing), vectors(*missing))
    assert reopened.find(keys(*TEXTS)).vectors_ND.tobytes() == vectors(*TEXTS).tobytes()
    reopened.close()


def test_a_pickle_is_refused(folder, store):
    store.add(keys(*TEXTS), vectors(*TEXTS))
    np.save(segments(folder)[0] / "vectors.npy", np.array([{"a": 1}] * len(TEXTS), dtype=object), allow_pickle=True)
    assert not found_by_another(folder, DIM).any()


def test_vectors_of_another_length_are_refused(folder, store):
    store.add(keys(*TEXTS), vectors(*TEXTS))
    assert found_by_another(folder, DIM).all()
    assert not found_by_another(folder, DIM + 1).any()


def test_spaces_do_not_mix_and_the_old_one_stays(tmp_path):
    with KeptVectors(tmp_path) as kept:
        kept.store("one", "reading", DIM).add(keys("a"), vectors("a"))
        assert not kept.store("two", "reading", DIM).find(keys("a")).is_found_N.any()
        assert not kept.store("one", "other", DIM).find(keys("a")).is_found_N.any()
        assert (kept.store("one", "reading", DIM).find(keys("a")).vectors_ND == vectors("a")).all()


def test_removed_vectors_are_gone_from_every_space_and_from_disk(tmp_path):
    with KeptVectors(tmp_path) as kept:
        for space in ("one", "two"):
            kept.store(space, "reading", DIM).add(keys(*TEXTS[:10]), vectors(*TEXTS[:10]))
            kept.store(space, "reading", DIM).add(keys("only"), vectors("only"))
    prefixes = {bytes.fromhex(text_id(text)) for text in (TEXTS[4], "only", "never there")}
    assert kept_vectors.count(tmp_path, prefixes) == 4
    assert kept_vectors.remove(tmp_path, prefixes) == 4
    assert kept_vectors.remove(tmp_path, prefixes) == kept_vectors.count(tmp_path, prefixes) == 0
    left = [path.read_bytes() for path in tmp_path.rglob("*.npy")]
    assert len(left) == 6
    assert not any(vectors(text).tobytes() in content for content in left for text in (TEXTS[4], "only"))
    with KeptVectors(tmp_path) as kept:
        found = kept.store("two", "reading", DIM).find(keys(*TEXTS[:10]))
        assert found.is_found_N.tolist() == [number != 4 for number in range(10)]


def test_writers_side_by_side_lose_nothing(folder):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=add_share, args=(folder, TEXTS[start:])) for start in (0, 5, 20)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    store = VectorStore(folder, DIM)
    assert store.find(keys(*TEXTS)).vectors_ND.tobytes() == vectors(*TEXTS).tobytes()
    store.close()


def test_a_killed_writer_leaves_whole_segments_only(folder):
    """Killed while it writes and merges; all it said it had kept is there, and the next merge clears its leftovers."""
    for attempt in range(3):
        command = [sys.executable, kept_texts.__file__, folder, f"attempt {attempt}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            lines = [process.stdout.readline() for _ in range(7 + attempt * 5)]
            time.sleep(0.003 * attempt)
            process.send_signal(signal.SIGKILL)
        said = int(lines[-1])
        store = VectorStore(folder, DIM)
        texts = [f"attempt {attempt} {number} {place}" for number in range(said + 1) for place in range(50)]
        assert store.find(keys(*texts)).vectors_ND.tobytes() == vectors(*texts).tobytes()
        (folder / ".left.writing").mkdir()
        for number in range(vector_store.MANY_SEGMENTS):
            store.add(keys(f"{attempt} {number}"), vectors("x"))
        store.compact()
        assert not list(folder.glob(".*.writing"))
        assert store.find(keys(*texts)).vectors_ND.tobytes() == vectors(*texts).tobytes()
        store.close()
    shutil.rmtree(folder)
