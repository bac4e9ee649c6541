"""Every arm by one loop: what it leaves, that it learns what is there and not what is not, and that it resumes."""

import json
import threading
import time
from dataclasses import replace
from functools import partial

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from model_children import kill, launch_group, train_arms_in
from safetensors import safe_open
from safetensors.torch import load_file

from msd_models.arms import settings_of
from msd_models.arms_file import read_arms
from msd_models.ctr_job import Job, train_one, work
from msd_models.ctr_lanes import LEAST_ROWS, JobOrder, lanes_for
from msd_models.ctr_records import open_inputs
from msd_models.fitting import batch_rows, fit, score
from msd_models.metrics import auc
from msd_models.networks import build
from msd_models.train import train_arms
from msd_models.vector_alignment import align_vectors, open_vectors
from pipeline.config import CtrModel
from pipeline.errors import ConfigError, StageError
from pipeline.storage import write_shard

ARMS = (
    "deepfm",
    "din",
    "dcnv2",
    "shuffled_vectors",
    "raw_text",
    "msd_frozen",
    "msd",
    "elec_gain",
    "elec_vanilla",
    "kar",
)
SMALL = CtrModel(arms=ARMS, seeds=(1,), max_epochs=2, hidden=(16, 8), embedding_dim=4, adaptor_dim=8)


@pytest.fixture(autouse=True)
def one_thread():
    """As train_arms takes: steps this small only wait for a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def full_world(make_ctr_world, write_ctr_records):
    """`full_world(folder, …)` writes a world with its records."""

    def _make(folder, **changes):
        world = make_ctr_world(folder, **changes)
        return world | {"ctr_records": write_ctr_records(world)}

    return _make


@pytest.fixture(scope="module")
def world(full_world, tmp_path_factory):
    return full_world(tmp_path_factory.mktemp("world"))


def inputs_of_stage(world):
    from pipeline.stages import BY_NAME

    return {name: world[name] for name in BY_NAME["ctr_model"].inputs}


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return folder, train_arms(SMALL, folder, **inputs_of_stage(world))


@pytest.fixture(scope="module")
def opened(world, tmp_path_factory):
    """The inputs and vectors of the world."""
    folder = tmp_path_factory.mktemp("aligned")
    align_vectors(folder, world, {arm.vectors for arm in read_arms().values() if arm.vectors})
    return open_inputs(world["ctr_records"].folder), open_vectors(folder)


def built(arm, seed, opened, config):
    arms = read_arms()
    return build(arms[arm], arms, seed, *opened, config)


def auc_on(network, inputs, split="test"):
    whole = inputs.records[split].read(0, inputs.num_rows(split))
    return auc(whole["click"].astype("int8"), score(network, inputs, iter([whole])))


def made_files(folder):
    """Content of all data but the runs, whose seconds differ."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name not in ("runs", "exports")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if not path.name.startswith(".")}


def test_each_arm_and_seed_leaves_predictions_run_and_checkpoint(world, trained):
    folder, outcome = trained
    examples = world["examples"].table().to_pylist()
    expected = {row["event_id"]: row for row in examples if row["split"] != "train"}
    spaces = {"raw_text": "text", "msd": "tuned", "elec_gain": "tuned", "msd_frozen": "student", "kar": "student"}
    for arm in ARMS:
        rows = pq.read_table(folder / "predictions" / f"{arm}-1.parquet")
        assert [str(field.type) for field in rows.schema] == ["int64", "string", "string", "string", "int8", "float"]
        assert len(rows) == len(expected)
        for row in rows.to_pylist():
            given = expected[row["event_id"]]
            assert all(row[name] == given[name] for name in ("split", "user_id", "item_id", "is_click"))
            assert 0 < row["score"] < 1
        run = json.loads((folder / "runs" / f"{arm}-1.json").read_text())
        assert run["valid_auc"][run["best_epoch"] - 1] == max(run["valid_auc"])
        assert 0 <= run["wait_share"] < 1
        with safe_open(folder / "checkpoints" / f"{arm}-1.safetensors", "pt") as checkpoint:
            facts = checkpoint.metadata()
            assert (facts["arm"], facts["seed"], facts["space_id"]) == (arm, "1", spaces.get(arm, ""))
            assert json.loads(facts["settings"])["top_k"] == SMALL.top_k
            assert not any("vectors" in name for name in list(checkpoint.keys()))
            assert not any("gain" in name for name in list(checkpoint.keys()))
    assert outcome.rows_in == outcome.rows_ok == len(examples)
    assert outcome.details["split"] == {"train": 360, "valid": 120, "test": 120}
    assert outcome.details["arms"] == list(ARMS)
    assert outcome.details["spaces"] == {"student": "student", "raw_text": "text", "tuned": "tuned"}
    assert {path.name for path in folder.iterdir()} == {"checkpoints", "exports", "predictions", "rows.parquet", "runs"}


def test_rows_tell_what_the_report_slices_by(world, trained):
    rows = pq.read_table(trained[0] / "rows.parquet").to_pylist()
    stats = {row["item_id"]: row["exposures"] for row in world["item_stats"].table().to_pylist()}
    category = {row["item_id"]: row["category"] for row in world["items"].table().to_pylist()}
    lengths = [len(row["item_ids"]) for row in world["histories"].table().to_pylist()]
    examples = {row["event_id"]: row for row in world["examples"].table().to_pylist()}
    assert len(rows) == 240
    for row in rows:
        given = examples[row["event_id"]]
        assert row["split"] == given["split"]
        assert row["item_exposures"] == stats[given["item_id"]]
        assert row["category"] == category[given["item_id"]]
        assert row["history_length"] == lengths[given["history_row"]]
        assert row["has_item_vector"]
        assert row["has_user_vector"]


def test_semantic_arms_of_one_module_are_one_architecture(trained):
    folder, _ = trained
    alike = [arm for arm in ARMS if read_arms()[arm].module == "msd" and read_arms()[arm].injection == "input"]
    assert {"shuffled_vectors", "raw_text", "msd_frozen", "msd"} == set(alike)
    assert len({json.loads((folder / "runs" / f"{arm}-1.json").read_text())["params"] for arm in alike}) == 1


def test_trainings_side_by_side_give_the_same_bytes_though_one_lane_is_killed(world, trained, tmp_path):
    config = replace(SMALL, side_by_side=2)
    killer = threading.Thread(target=kill_a_lane, args=(tmp_path,))
    killer.start()
    with pytest.raises(StageError, match="what is trained stays"):
        train_arms(config, tmp_path, **inputs_of_stage(world))
    killer.join()
    assert not lanes()
    done = {path: path.read_bytes() for path in tmp_path.glob("runs/*.json")}
    assert 1 <= len(done) < len(ARMS)
    train_arms(config, tmp_path, **inputs_of_stage(world))
    assert made_files(tmp_path) == made_files(trained[0])
    assert all(path.read_bytes() == content for path, content in done.items())


def lanes():
    """Processes of this one that train in lanes."""
    return [child for child in psutil.Process().children() if "msd_models.ctr_lane" in child.cmdline()]


def kill_a_lane(folder):
    """When the first run is done."""
    while not list(folder.glob("runs/*.json")):
        time.sleep(0.01)
    lanes()[0].kill()


def test_lanes_are_started_where_the_work_is_worth_it_and_train_teachers_first(tmp_path):
    assert lanes_for(0, num_jobs=10, rows=LEAST_ROWS - 1) == 1
    assert lanes_for(2, num_jobs=1, rows=1) == 1
    assert lanes_for(3, num_jobs=10, rows=1) == 3
    places = {"records": tmp_path, "vectors": tmp_path, "folder": tmp_path}
    jobs = [
        Job(arm=arm, seed=seed, config=SMALL, **places)
        for seed in (1, 2)
        for arm in ("din", "elec_vanilla", "elec_gain")
    ]
    plan = JobOrder(jobs, read_arms())
    started = [plan.next_job().name for _ in range(4)]
    assert started == ["elec_gain-1", "elec_gain-2", "din-1", "din-2"]
    assert plan.next_job() is None
    plan.finish("elec_gain-2")
    assert plan.next_job().name == "elec_vanilla-2"
    assert plan.next_job() is None


def test_trainings_killed_in_the_middle_end_in_the_same_files(world, trained, fork_child, tmp_path):
    """Most arms are trained a second time from the start: the same arm and seed give the same bytes, too."""
    root = world["items"].folder.parents[1]
    # A checkpoint after every step: the kill falls into a training that is gone on with.
    config = replace(SMALL, checkpoint_seconds=0.0)
    for wanted in (1, 4):
        process = fork_child(train_arms_in, root, tmp_path, config)
        while len(list(tmp_path.glob("runs/*.json"))) < wanted or not list(tmp_path.glob("unfinished/*.safetensors")):
            assert process.poll() is None
            time.sleep(0.005)
        kill(process)
    done = {path: path.read_bytes() for path in tmp_path.glob("runs/*.json")}
    assert len(done) < len(ARMS)
    train_arms(SMALL, tmp_path, **inputs_of_stage(world))
    assert all(path.read_bytes() == content for path, content in done.items())
    assert made_files(tmp_path) == made_files(trained[0])
    assert len(list(tmp_path.glob("runs/*.json"))) == len(ARMS)


@pytest.mark.parametrize("arm", ["din", "msd_frozen", "deepfm"])
def test_a_training_stopped_at_any_step_goes_on_to_the_same_weights(opened, tmp_path, arm):
    config = replace(SMALL, batch_size=64, checkpoint_seconds=0.0)

    class Stopped(Exception):
        pass

    def stop_after(rows):
        seen = [0.0]

        def advance(amount=1):
            seen[0] += amount
            if seen[0] >= rows:
                raise Stopped

        return advance

    whole = built(arm, 1, opened, config)
    told = fit(whole, opened[0], config, 1, lambda amount: None)
    checkpoint = tmp_path / "training.safetensors"
    for rows in (40, 300, 500):
        with pytest.raises(Stopped):
            fit(built(arm, 1, opened, config), opened[0], config, 1, stop_after(rows), checkpoint=checkpoint)
    network = built(arm, 1, opened, config)
    again = fit(network, opened[0], config, 1, lambda amount: None, checkpoint=checkpoint)
    assert again.valid_auc == told.valid_auc
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], weight, rtol=0, atol=0)


@pytest.mark.parametrize("arm", ["deepfm", "din", "msd_frozen", "elec_vanilla", "kar"])
def test_a_loaded_checkpoint_scores_as_the_saved_model(opened, trained, arm):
    folder, _ = trained
    inputs, _ = opened
    network = built(arm, 99, opened, SMALL)
    missing = network.load_state_dict(load_file(folder / "checkpoints" / f"{arm}-1.safetensors"), strict=False)
    assert not missing.unexpected_keys
    assert all("gain" in name or "projection" in name for name in missing.missing_keys)
    saved = pq.read_table(folder / "predictions" / f"{arm}-1.parquet").column("score").to_numpy()
    loaded = [score(network, inputs, inputs.records[split].batches(8192)) for split in ("valid", "test")]
    np.testing.assert_array_equal(np.concatenate(loaded), saved)


def test_two_processes_train_what_one_trains(world, fork_child, tmp_path):
    # Without what is random or a batch's own: dropout, masks, and DIN's moments.
    quiet = {"dropout": 0.0, "mask": "none", "vector_dropout": 0.0, "batch_size": 90}
    config = replace(SMALL, arms_file=str(_on_mlp(tmp_path)), **quiet)
    train_arms(replace(config, arms=("deepfm", "raw_text")), tmp_path / "1", **inputs_of_stage(world))
    # One group by torchrun, as without a launch of one's own; the other in forks, which import nothing.
    for arm, launch in (("deepfm", None), ("raw_text", partial(launch_group, fork_child, work))):
        grouped = replace(config, arms=(arm,), processes=2)
        train_arms(grouped, tmp_path / "2", launch=launch, **inputs_of_stage(world))
    for arm in ("deepfm", "raw_text"):
        one, two = (
            pq.read_table(tmp_path / folder / "predictions" / f"{arm}-1.parquet").column("score").to_numpy()
            for folder in ("1", "2")
        )
        np.testing.assert_allclose(one, two, atol=2e-4)
        assert one.std() > 1e-3


def _on_mlp(folder):
    path = folder / "arms.toml"
    path.write_text('[raw_text]\nbackbone = "mlp"\n')
    return path


def test_the_kept_weights_are_those_of_the_best_epoch(opened):
    config = replace(SMALL, max_epochs=6, learning_rate=0.02)
    network = built("din", 1, opened, config)
    outcome = fit(network, opened[0], config, 1, lambda amount: None)
    assert auc_on(network, opened[0], "valid") == max(outcome.valid_auc) == outcome.valid_auc[outcome.best_epoch - 1]
    assert outcome.epochs in (config.max_epochs, outcome.best_epoch + 1)


def test_meaning_helps_where_clicks_follow_from_it_and_the_wrong_meaning_does_not(full_world, tmp_path):
    world = full_world(tmp_path / "world", num_users=600, num_items=1200)
    inputs = open_inputs(world["ctr_records"].folder)
    align_vectors(tmp_path / "aligned", world, ["raw_text"])
    vectors = open_vectors(tmp_path / "aligned")
    config = CtrModel(max_epochs=4)

    def found_by(arm):
        network = built(arm, 1, (inputs, vectors), config)
        fit(network, inputs, config, 1, lambda amount: None)
        return auc_on(network, inputs)

    found = {arm: found_by(arm) for arm in ("din", "shuffled_vectors", "random_vectors", "raw_text", "msd_frozen")}
    assert found["msd_frozen"] > 0.8
    assert found["raw_text"] > 0.8
    assert max(found["din"], found["shuffled_vectors"], found["random_vectors"]) < 0.6
    assert abs(found["din"] - found["shuffled_vectors"]) < 0.06


def test_a_log_whose_users_have_no_vector_yet_is_trained_all_the_same(
    full_world, make_ctr_world, write_ctr_records, tmp_path
):
    nobody = pa.nulls(600, pa.int64())
    world = make_ctr_world(tmp_path / "world", user_row=nobody, history_row=nobody)
    folder = world["user_features"].folder
    np.save(folder / "vectors.npy", np.zeros((0, 12), dtype=np.float32))
    write_shard(folder / "rows.parquet", pq.read_table(folder / "rows.parquet").slice(0, 0))
    for name in ("user_text_vectors", "tuned_user_vectors"):
        write_shard(world[name].shards()[0], world[name].table().slice(0, 0))
    world["ctr_records"] = write_ctr_records(world)
    (tmp_path / "made").mkdir()
    train_arms(replace(SMALL, max_epochs=1), tmp_path / "made", **inputs_of_stage(world))
    for arm in ARMS:
        scores = pq.read_table(tmp_path / "made" / "predictions" / f"{arm}-1.parquet").column("score").to_numpy()
        assert np.isfinite(scores).all()


@pytest.mark.parametrize("optimiser", ["sparse_adam", "rowwise_adagrad"])
@pytest.mark.parametrize("arm", ["deepfm", "msd_frozen"])
def test_sparse_optimisers_move_the_rows_that_are_met_and_learn(opened, arm, optimiser):
    inputs, _ = opened
    config = replace(SMALL, embedding_optimiser=optimiser, weight_decay=0.0)
    network = built(arm, 1, opened, config)
    before = network.backbone.embeddings.table.weight.detach().clone()
    fit(network, inputs, config, 1, lambda amount: None)
    has_moved = (network.backbone.embeddings.table.weight != before).any(dim=1)
    train = inputs.records["train"].read(0, 1000)
    met = set(train["codes"].ravel().tolist()) | set(inputs.catalogue_codes_C2[train["history"]].ravel().tolist())
    moved = set(has_moved.nonzero()[:, 0].tolist())
    assert moved <= met
    assert len(moved) > 0.5 * len(met)


def test_records_beyond_one_pool_are_trained_on_as_well(opened):
    config = replace(SMALL, pool_rows=100, max_epochs=1)
    network = built("deepfm", 1, opened, config)
    seen = []
    fit(network, opened[0], config, 1, seen.append)
    assert sum(seen) == 360


def test_an_arm_of_a_users_file_is_trained_with_its_own_settings(world, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[wide]\nlike = "din"\n[wide.settings]\nhidden = [32]\n')
    config = replace(SMALL, arms=("din", "wide"), arms_file=str(path))
    train_arms(config, tmp_path / "made", **inputs_of_stage(world))
    runs = {arm: json.loads((tmp_path / "made" / "runs" / f"{arm}-1.json").read_text()) for arm in ("din", "wide")}
    assert runs["wide"]["settings"] == {"hidden": [32]}
    assert runs["wide"]["params"] != runs["din"]["params"]
    assert settings_of(read_arms(str(path))["wide"], SMALL).hidden == (32,)


def test_a_distilled_arm_brings_the_arm_it_learns_from(world, tmp_path):
    outcome = train_arms(replace(SMALL, arms=("elec_vanilla",)), tmp_path, **inputs_of_stage(world))
    assert outcome.details["arms"] == ["elec_gain", "elec_vanilla"]
    assert [path.name for path in (tmp_path / "exports").iterdir()] == ["elec_vanilla-1.pt2"]


def test_one_job_is_one_arm(world, opened, tmp_path):
    inputs, vectors = opened
    job = Job(arm="din", seed=4, records=world["ctr_records"].folder, vectors=tmp_path, folder=tmp_path, config=SMALL)
    train_one(job, inputs, vectors, lambda amount=1: None)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["din-4.json"]


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
        ({"hidden": (8, 0)}, "hidden must name one width or more"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"embedding_optimiser": "lamb"}, "embedding_optimiser is 'lamb'"),
        ({"schedule": "later"}, "schedule is 'later'"),
        ({"amp": "fp8"}, "amp is 'fp8'"),
    ],
)
def test_a_setting_out_of_range_is_a_sentence(world, tmp_path, changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        train_arms(replace(SMALL, **changes), tmp_path, **inputs_of_stage(world))


def test_small_logs_take_small_batches():
    assert batch_rows(80_000, 1024) == 1024
    assert batch_rows(5_000, 1024) == 100
    assert batch_rows(100, 1024) == 32
    assert batch_rows(100, 16) == 16
