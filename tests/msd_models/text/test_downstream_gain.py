"""The downstream gain: there where vectors decide the clicks, about nothing where they are dealt to the wrong items."""

import numpy as np
import pytest
from click_world import EVENTS, NUM_USERS, make_world
from hypothesis import given
from hypothesis import strategies as st

from msd_models.downstream_gain import Downstream, _latest_before, read_downstream
from pipeline import schemas


def gain(downstream: Downstream, vectors):
    return downstream.gain(np.stack([vectors[item] for item in downstream.item_ids]))


@pytest.fixture(scope="module")
def world(save):
    return make_world(save)


def test_vectors_that_decide_the_clicks_are_found(world):
    datasets, vectors = world
    downstream = read_downstream(**datasets, seed=0)
    found = gain(downstream, vectors)
    assert found.value > 0.15
    assert found.with_vectors > 0.7
    ids = list(vectors)
    gains = []
    for seed in range(8):
        dealt = np.random.default_rng(seed).permutation(len(ids))
        shuffled = {item: vectors[ids[place]] for item, place in zip(ids, dealt, strict=True)}
        gains.append(gain(downstream, shuffled).value)
    # One AUC of 600 labels has a standard error of .024.
    assert abs(np.mean(gains)) < 0.04
    assert max(gains) < found.value / 2


def test_vectors_that_decide_nothing_add_nothing(save):
    datasets, vectors = make_world(save, seed=1, decides=False)
    assert abs(gain(read_downstream(**datasets, seed=0), vectors).value) < 0.06


def test_labels_are_drawn_and_texts_come_with_their_items(world):
    datasets, _ = world
    downstream = read_downstream(**datasets, seed=0)
    assert (len(downstream.train.click_N), len(downstream.valid.click_N)) == (
        NUM_USERS * EVENTS * 4 // 6,
        NUM_USERS * EVENTS // 6,
    )
    assert downstream.texts == [f"t{item[1:]}" for item in downstream.item_ids]
    assert downstream.train.history_NH.max() < len(downstream.item_ids)


def test_test_labels_are_never_read(world, save):
    datasets, vectors = world
    rows = datasets["interactions"].table().to_pylist()
    turned = [{**row, "is_click": 1 - row["is_click"]} if row["split"] == "test" else row for row in rows]
    other = {**datasets, "interactions": save("interactions", schemas.INTERACTIONS, turned[::-1])}
    wanted = gain(read_downstream(**datasets, seed=0), vectors)
    found = gain(read_downstream(**other, seed=0), vectors)
    assert found.with_vectors == pytest.approx(wanted.with_vectors, abs=1e-6)


def test_a_log_without_impressions_has_nothing_to_rank(world, save):
    datasets, _ = world
    clicks = [row for row in datasets["interactions"].table().to_pylist() if row["is_click"]]
    only = {**datasets, "interactions": save("interactions", schemas.INTERACTIONS, clicks)}
    assert read_downstream(**only, seed=0) is None
    nobody = {**datasets, "interactions": save("interactions", schemas.INTERACTIONS, [])}
    assert read_downstream(**nobody, seed=0) is None


POINTS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=20, unique=True)


@given(POINTS, POINTS)
def test_the_latest_snapshot_at_or_before_a_label(snapshots, labels):
    columns = [np.array(list(points) or np.zeros((0, 2)), dtype=np.int64).T for points in (snapshots, labels)]
    found = _latest_before(*columns[0], *columns[1])
    for place, (user, time) in zip(found, labels, strict=True):
        known = [(at, row) for row, (owner, at) in enumerate(snapshots) if owner == user and at <= time]
        assert place == (max(known)[1] if known else -1)
