"""A canary model: other vectors in the rows that the records name, and the loss it is judged by."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from msd_models.canary_comparison import compare_canaries
from msd_models.canary_model import KNOWN_FILE, latest_before, train_canary
from pipeline.config import CanaryModel
from pipeline.dataset_erasure import count_rows, erase_in
from pipeline.errors import ConfigError, SpaceMismatch, StageError
from pipeline.person import Person
from pipeline.storage import Outcome, Workspace, commit, write_shard

SMALL = CanaryModel(seeds=(1, 2), max_epochs=4, hidden=(16, 8), embedding_dim=4, adaptor_dim=8)
START = datetime(2024, 1, 1, tzinfo=UTC)
FEATURES = ("item_features", "user_features")


@pytest.fixture(scope="module")
def world(make_ctr_world, write_ctr_records, tmp_path_factory):
    """Datasets whose records say which features they were made of."""
    made = make_ctr_world(tmp_path_factory.mktemp("world"), num_users=80, per_user=14)
    records = write_ctr_records(made)
    manifest = records.manifest | {"inputs": {name: made[name].fingerprint for name in FEATURES}}
    (records.folder / "manifest.json").write_text(json.dumps(manifest))
    return made | {"ctr_records": records}


def canary(world, folder, config=SMALL, **features):
    """A committed canary_model on features of another generation where they are given."""
    folder.mkdir(parents=True)
    inputs = {name: features.get(name, world[name]) for name in FEATURES}
    output = Workspace(folder).dataset("canary_model", "0" * 16, None)
    output.folder.mkdir(parents=True)
    commit(output, train_canary(config, output.folder, world["ctr_records"], **inputs), {})
    return output


def another(world, name, label, change):
    """A dataset of features whose vectors and rows went through `change`."""
    given = world[name]
    output = replace(given, fingerprint=label, folder=given.folder.parent / label)
    output.folder.mkdir(exist_ok=True)
    vectors_ND, rows = change(np.load(given.folder / "vectors.npy"), pq.read_table(given.folder / "rows.parquet"))
    np.save(output.folder / "vectors.npy", vectors_ND)
    write_shard(output.folder / "rows.parquet", rows.set_column(0, "vector_row", pa.array(np.arange(len(rows)))))
    commit(output, Outcome(details={"space_id": f"of {label}"}), {})
    return output


def backwards(vectors_ND, rows):
    return vectors_ND[::-1], rows.take(pa.array(np.arange(len(rows))[::-1]))


def noise(vectors_ND, rows):
    return np.random.default_rng(9).standard_normal(vectors_ND.shape).astype(np.float32), rows


def half(vectors_ND, rows):
    return vectors_ND[::2], rows.take(pa.array(np.arange(0, len(rows), 2)))


@pytest.fixture(scope="module")
def own(world, tmp_path_factory):
    return canary(world, tmp_path_factory.mktemp("own") / "work")


def test_the_same_vectors_in_another_order_give_the_same_canary(world, own, tmp_path):
    turned = {name: replace(another(world, name, "turned", backwards), name=f"tuned_{name}") for name in FEATURES}
    other = canary(world, tmp_path / "work", **turned)
    for seed in SMALL.seeds:
        name = f"predictions/msd_frozen-{seed}.parquet"
        assert (own.folder / name).read_bytes() == (other.folder / name).read_bytes()
    loss = compare_canaries(own, other, rounds=50, seed=0)
    assert loss.interval == (0, 0, 0)
    assert loss.compared_rows == loss.rows


def test_vectors_without_meaning_lose_and_the_interval_says_so(world, own, tmp_path):
    empty = {name: another(world, name, "noise", noise) for name in FEATURES}
    other = canary(world, tmp_path / "work", **empty)
    loss = compare_canaries(other, own, rounds=200, seed=0)
    assert loss.interval[0] > 0.05
    assert loss.interval[0] < loss.interval[1] < loss.interval[2]
    assert loss.interval[1] == pytest.approx(loss.active_auc - loss.new_auc)
    gain = compare_canaries(own, other, rounds=200, seed=0)
    assert gain.interval[1] == pytest.approx(-loss.interval[1])


def test_only_rows_that_both_have_vectors_for_are_compared(world, own, tmp_path):
    fewer = {name: another(world, name, "half", half) for name in FEATURES}
    other = canary(world, tmp_path / "work", **fewer)
    items, users = ({row for row in pq.read_table(fewer[name].folder / "rows.parquet")[key].to_pylist()}
                    for name, key in zip(FEATURES, ("item_id", "user_id"), strict=True))  # fmt: skip
    test = [row for row in world["examples"].table().to_pylist() if row["split"] == "test"]
    expected = sum(row["item_id"] in items and row["user_id"] in users for row in test)
    loss = compare_canaries(other, own, rounds=50, seed=0)
    assert (loss.rows, loss.compared_rows) == (len(test), expected)
    assert 0 < expected < len(test)


def test_a_generation_that_knows_none_of_the_keys_cannot_be_compared(world, own, tmp_path):
    def renamed(vectors_ND, rows):
        return vectors_ND, rows.set_column(1, "item_id", pa.array([f"other {n}" for n in range(len(rows))]))

    strange = another(world, "item_features", "strange", renamed)
    users = another(world, "user_features", "strange", lambda vectors_ND, rows: (vectors_ND, rows))
    other = canary(world, tmp_path / "work", item_features=strange, user_features=users)
    loss = compare_canaries(own, other, rounds=50, seed=0)
    assert (loss.compared_rows, loss.new_auc, loss.interval) == (0, None, None)


def test_a_killed_canary_goes_on_at_the_next_seed(world, own, tmp_path):
    first = canary(world, tmp_path / "work", replace(SMALL, seeds=(1,)))
    untouched = (first.folder / "runs" / "msd_frozen-1.json").stat().st_mtime_ns
    train_canary(SMALL, first.folder, **{name: world[name] for name in ("ctr_records", *FEATURES)})
    assert (first.folder / "runs" / "msd_frozen-1.json").stat().st_mtime_ns == untouched
    for seed in SMALL.seeds:
        name = f"predictions/msd_frozen-{seed}.parquet"
        assert (own.folder / name).read_bytes() == (first.folder / name).read_bytes()


def test_what_cannot_be_a_canary_is_refused(world, own, tmp_path):
    inputs = {name: world[name] for name in ("ctr_records", *FEATURES)}
    for arm, told in (("msd", "does not read a generation's vectors"), ("nothing", "choose one of")):
        with pytest.raises(ConfigError, match=told):
            train_canary(replace(SMALL, arm=arm), tmp_path, **inputs)
    with pytest.raises(ConfigError, match="learning_rate"):
        train_canary(replace(SMALL, learning_rate=0.0), tmp_path, **inputs)
    other = another(world, "user_features", "spaced", lambda vectors_ND, rows: (vectors_ND, rows))
    with pytest.raises(SpaceMismatch, match="reads one space"):
        train_canary(SMALL, tmp_path, **inputs | {"user_features": other})
    known = pq.read_table(own.folder / KNOWN_FILE)
    (tmp_path / "other").mkdir()
    write_shard(tmp_path / "other" / KNOWN_FILE, known.slice(1))
    with pytest.raises(StageError, match="other test rows"):
        compare_canaries(own, replace(own, folder=tmp_path / "other"), rounds=50, seed=0)


def snapshots(rows):
    users, hours = zip(*rows, strict=True) if rows else ((), ())
    times = pa.array([START + timedelta(hours=hour) for hour in hours], pa.timestamp("us", tz="UTC"))
    return pa.table({"user_id": pa.array(users, pa.string()), "snapshot_at": times})


def test_a_user_reads_the_latest_snapshot_that_is_not_later():
    random = np.random.default_rng(0)
    known = [(f"u{random.integers(6)}", int(hour)) for hour in random.permutation(60)]
    wanted = [(f"u{random.integers(8)}", int(random.integers(-3, 70))) for _ in range(200)] + [("", 50)]
    found = latest_before(snapshots(wanted), snapshots([*known, ("", 1)]))
    for (user, hour), place in zip(wanted, found, strict=True):
        before = [(when, number) for number, (who, when) in enumerate(known) if who == user and when <= hour]
        assert place == (max(before)[1] if user and before else -1)
    assert (latest_before(snapshots(wanted), snapshots([])) == -1).all()


def test_a_person_is_cut_from_all_that_a_canary_keeps_and_it_is_still_compared(world, own, tmp_path):
    first = canary(world, tmp_path / "first")
    other = canary(world, tmp_path / "other", **{name: another(world, name, "noise", noise) for name in FEATURES})
    before = compare_canaries(first, other, rounds=50, seed=0)
    person = Person("user 3")
    for each in (first, other):
        assert any(count_rows(path, person) for path in each.folder.rglob("*.parquet"))
        erase_in(each, person)
        assert not any(count_rows(path, person) for path in each.folder.rglob("*.parquet"))
    after = compare_canaries(first, other, rounds=50, seed=0)
    assert before.rows - 14 <= after.rows < before.rows
