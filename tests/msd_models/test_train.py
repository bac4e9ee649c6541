"""Every arm by one loop: what it leaves, that it learns what is there and not what is not, and that it resumes."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from msd_models.arms import ARMS, build
from msd_models.backbones import SPARSE_FROM_ROWS
from msd_models.ctr_inputs import Tables, read_inputs
from msd_models.fields import Field
from msd_models.fitting import batch_rows, fit, score
from msd_models.metrics import auc
from msd_models.train import VECTOR_DATASETS, train_arms
from msd_models.vector_tables import read_vectors
from pipeline.config import CtrModel
from pipeline.errors import ConfigError
from pipeline.storage import write_shard

SMALL = CtrModel(seeds=(1,), max_epochs=2, hidden=(16, 8), embedding_dim=4, adaptor_dim=8, max_history=8)
TRAIN_AGAIN = """
import sys
from pathlib import Path
from msd_models.train import train_arms
from pipeline.config import CtrModel
from pipeline.stages import BY_NAME
from pipeline.storage import Workspace
workspace = Workspace(Path(sys.argv[1]))
world = {name: workspace.dataset(name, "0" * 16, BY_NAME[name].schema) for name in BY_NAME["ctr_model"].inputs}
train_arms(eval(sys.argv[3]), Path(sys.argv[2]), **world)
"""


@pytest.fixture(autouse=True)
def one_thread():
    """As train_arms takes: steps this small only wait for a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def world(make_ctr_world, tmp_path_factory):
    return make_ctr_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return folder, train_arms(SMALL, folder, **world)


def read(world, config):
    vectors = read_vectors(**{name: world[name] for name in VECTOR_DATASETS})
    tables = Tables(**{name: dataset for name, dataset in world.items() if name not in VECTOR_DATASETS})
    return read_inputs(tables, vectors.item_rows, config.max_history, config.min_id_count), vectors


def made_files(folder):
    """Content of all data but the runs, whose seconds differ."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "runs"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if not path.name.startswith(".")}


def test_each_arm_and_seed_leaves_predictions_run_and_checkpoint(world, trained):
    folder, outcome = trained
    examples = world["examples"].table().to_pylist()
    expected = {row["event_id"]: row for row in examples if row["split"] != "train"}
    for arm in SMALL.arms:
        rows = pq.read_table(folder / "predictions" / f"{arm}-1.parquet")
        assert [str(field.type) for field in rows.schema] == ["int64", "string", "string", "string", "int8", "float"]
        assert len(rows) == len(expected)
        for row in rows.to_pylist():
            given = expected[row["event_id"]]
            assert all(row[name] == given[name] for name in ("split", "user_id", "item_id", "is_click"))
            assert 0 < row["score"] < 1
        run = json.loads((folder / "runs" / f"{arm}-1.json").read_text())
        assert run["valid_auc"][run["best_epoch"] - 1] == max(run["valid_auc"])
        with safe_open(folder / "checkpoints" / f"{arm}-1.safetensors", "pt") as checkpoint:
            facts = checkpoint.metadata()
            assert (facts["arm"], facts["seed"], facts["space_id"]) == (arm, "1", "student")
            assert json.loads(facts["settings"])["top_k"] == SMALL.top_k
            assert not any("vectors_RD" in name for name in list(checkpoint.keys()))
    assert outcome.rows_in == outcome.rows_ok == len(examples)
    assert outcome.details["split"] == {"train": 360, "valid": 120, "test": 120}
    assert outcome.details["arms"] == list(SMALL.arms)


def test_semantic_arms_are_one_architecture(trained):
    folder, _ = trained
    semantic = [arm for arm in SMALL.arms if ARMS[arm].vectors]
    assert len({json.loads((folder / "runs" / f"{arm}-1.json").read_text())["params"] for arm in semantic}) == 1


def test_the_same_arm_and_seed_give_the_same_bytes(world, trained, tmp_path):
    train_arms(SMALL, tmp_path, **world)
    assert made_files(tmp_path) == made_files(trained[0])


def test_a_training_killed_in_the_middle_ends_in_the_same_files(world, trained, tmp_path):
    root = world["items"].folder.parents[1]
    process = subprocess.Popen([sys.executable, "-c", TRAIN_AGAIN, str(root), str(tmp_path), repr(SMALL)])
    while not list(tmp_path.glob("runs/*.json")):
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = {path: path.read_bytes() for path in tmp_path.glob("runs/*.json")}
    assert len(done) < len(SMALL.arms)
    train_arms(SMALL, tmp_path, **world)
    assert all(path.read_bytes() == content for path, content in done.items())
    assert made_files(tmp_path) == made_files(trained[0])
    assert len(list(tmp_path.glob("runs/*.json"))) == len(SMALL.arms)


@pytest.mark.parametrize("arm", ["deepfm", "din", "msd_frozen"])
def test_a_loaded_checkpoint_scores_as_the_saved_model(world, trained, arm):
    folder, _ = trained
    inputs, vectors = read(world, SMALL)
    network = build(arm, 99, inputs, vectors, SMALL)
    network.load_state_dict(load_file(folder / "checkpoints" / f"{arm}-1.safetensors"))
    saved = pq.read_table(folder / "predictions" / f"{arm}-1.parquet").column("score").to_numpy()
    loaded = [score(network, inputs, inputs.split_rows[split]) for split in ("valid", "test")]
    np.testing.assert_array_equal(np.concatenate(loaded), saved)


@pytest.mark.parametrize("arm", ["deepfm", "din", "msd_frozen"])
def test_eight_rows_are_learned_by_heart(world, arm):
    config = replace(SMALL, dropout=0.0, mask="none", min_id_count=1)
    inputs, vectors = read(world, config)
    network = build(arm, 1, inputs, vectors, config).train()
    clicks = (inputs.click_N[:360] == 1).nonzero()[:4, 0]
    batch = inputs.batch(torch.cat([clicks, (inputs.click_N[:360] == 0).nonzero()[:4, 0]]))
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(150):
        loss = nn.functional.binary_cross_entropy_with_logits(network(batch), batch.click_B)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.05


def test_the_kept_weights_are_those_of_the_best_epoch(world):
    config = replace(SMALL, max_epochs=6, learning_rate=0.02)
    inputs, vectors = read(world, config)
    network = build("din", 1, inputs, vectors, config)
    outcome = fit(network, inputs, config, 1, lambda amount: None)
    valid = inputs.split_rows["valid"]
    found = auc(inputs.click_N[valid].numpy().astype("int8"), score(network, inputs, valid))
    assert found == max(outcome.valid_auc) == outcome.valid_auc[outcome.best_epoch - 1]
    assert outcome.epochs in (config.max_epochs, outcome.best_epoch + 1)


def test_meaning_helps_where_clicks_follow_from_it_and_the_wrong_meaning_does_not(make_ctr_world, tmp_path):
    world = make_ctr_world(tmp_path, num_users=600, num_items=1200)
    config = CtrModel(max_epochs=4)
    inputs, vectors = read(world, config)
    test = inputs.split_rows["test"]
    click = inputs.click_N[test].numpy().astype("int8")

    def test_auc(arm):
        network = build(arm, 1, inputs, vectors, config)
        fit(network, inputs, config, 1, lambda amount: None)
        return auc(click, score(network, inputs, test))

    found = {arm: test_auc(arm) for arm in ("din", "shuffled_vectors", "random_vectors", "raw_text", "msd_frozen")}
    assert found["msd_frozen"] > 0.8
    assert found["raw_text"] > 0.8
    assert max(found["din"], found["shuffled_vectors"], found["random_vectors"]) < 0.6
    assert abs(found["din"] - found["shuffled_vectors"]) < 0.06


def test_a_log_whose_users_have_no_vector_yet_is_trained_all_the_same(make_ctr_world, tmp_path):
    world = make_ctr_world(
        tmp_path / "world", user_row=pa.nulls(600, pa.int64()), history_row=pa.nulls(600, pa.int64())
    )
    folder = world["user_features"].folder
    np.save(folder / "vectors.npy", np.zeros((0, 12), dtype=np.float32))
    write_shard(folder / "rows.parquet", pq.read_table(folder / "rows.parquet").slice(0, 0))
    write_shard(world["user_text_vectors"].shards()[0], world["user_text_vectors"].table().slice(0, 0))
    (tmp_path / "made").mkdir()
    train_arms(SMALL, tmp_path / "made", **world)
    for arm in SMALL.arms:
        scores = pq.read_table(tmp_path / "made" / "predictions" / f"{arm}-1.parquet").column("score").to_numpy()
        assert np.isfinite(scores).all()


def test_a_large_table_is_trained_through_sparse_gradients(world):
    inputs, vectors = read(world, SMALL)
    huge = Field(name="context.query", offset=inputs.num_codes, values=pa.nulls(SPARSE_FROM_ROWS, pa.string()))
    codes = torch.cat([inputs.codes_NF, torch.full((600, 1), huge.offset + 5, dtype=torch.int32)], dim=1)
    inputs = replace(inputs, fields=(*inputs.fields, huge), codes_NF=codes)
    for arm in ("deepfm", "msd_frozen"):
        network = build(arm, 1, inputs, vectors, SMALL)
        before = network.backbone.embeddings.table.weight.detach().clone()
        fit(network, inputs, SMALL, 1, lambda amount: None)
        has_moved = (network.backbone.embeddings.table.weight != before).any(dim=1)
        assert has_moved[huge.offset + 5]
        assert has_moved[: huge.offset].sum() > 50
        assert has_moved.sum() <= huge.offset + 1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"arms": ("din", "bert")}, "arms names bert; there are deepfm, din"),
        ({"arms": ()}, "arms is empty"),
        ({"seeds": ()}, "seeds is empty"),
        ({"mask": "famous"}, "mask is 'famous'; choose popular, rare, word2vec, none"),
        ({"mask_min": 0.9}, "mask_min and mask_max"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"top_k": 0}, "top_k is 0"),
        ({"hidden": (8, 0)}, "hidden holds a width below 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
    ],
)
def test_a_setting_out_of_range_is_a_sentence(world, tmp_path, changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        train_arms(replace(SMALL, **changes), tmp_path, **world)


def test_small_logs_take_small_batches():
    assert batch_rows(80_000, 1024) == 1024
    assert batch_rows(5_000, 1024) == 100
    assert batch_rows(100, 1024) == 32
    assert batch_rows(100, 16) == 16
