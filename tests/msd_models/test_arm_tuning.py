"""Tuning: level budgets, the default first, going on after a kill as if there had been none, and test unread."""

import tomllib
from dataclasses import replace

import pytest

from msd_models.arm_tuning import Budget, needed_datasets, tune
from msd_models.arm_tuning_report import TunedArm, TunedTrial, table_lines, tuned_arms_file
from msd_models.arms_file import read_arms
from msd_models.ctr_records import write_records
from pipeline import schemas
from pipeline.config import CtrModel, CtrRecords
from pipeline.errors import UsageError
from pipeline.source import parse_source
from pipeline.storage import Outcome, commit

CONFIG = CtrModel(max_epochs=2, hidden=(16,), embedding_dim=4, adaptor_dim=8, top_k=3, batch_size=128)
TOML = '[items]\npath = "items.csv"\n[events]\npath = "events.csv"\n'


def empty(world, name):
    dataset = replace(world["items"], name=name, schema=getattr(schemas, name.upper()))
    dataset = replace(dataset, folder=world["items"].folder.parents[1] / name / ("0" * 16))
    dataset.folder.mkdir(parents=True, exist_ok=True)
    commit(dataset, Outcome(), {})
    return dataset


@pytest.fixture(scope="module")
def datasets(tmp_path_factory, make_ctr_world):
    folder = tmp_path_factory.mktemp("tuned")
    for name in ("items.csv", "events.csv"):
        (folder / name).write_text("a\n")
    made = make_ctr_world(folder / "work")
    made |= {name: empty(made, name) for name in ("context_texts", "context_vectors")}
    records = replace(made["items"], name="ctr_records", schema=None, folder=folder / "work" / "ctr_records" / "0")
    records.folder.mkdir(parents=True)
    inputs = ("examples", "histories", "items", "users", "item_stats", "context_texts")
    inputs += ("item_features", "user_features")
    outcome = write_records(
        CtrRecords(), records.folder, parse_source("w", TOML, folder), **{name: made[name] for name in inputs}
    )
    commit(records, outcome, {})
    return made | {"ctr_records": records}


def run(folder, datasets, names, trials, config=CONFIG, **budget):
    needed = {name: datasets[name] for name in needed_datasets(config, names)}
    return tune(config, folder, names, Budget(trials=trials, **budget), needed)


def trials_of(folder, arm):
    import optuna

    storage = f"sqlite:///{folder / 'trials.sqlite'}"
    (name,) = (one for one in optuna.get_all_study_names(storage) if one.startswith(f"{arm}:"))
    return [
        (trial.params, trial.value)
        for trial in optuna.load_study(study_name=name, storage=storage).trials
        if trial.state.is_finished() and trial.state.name != "FAIL"
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, datasets):
    """(settings, value) of din's first four trials in a search that nothing broke off."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run(folder, datasets, ["din"], 4)
    return trials_of(folder, "din")


def test_every_arm_gets_the_same_trials_and_the_first_is_the_arm_as_it_stands(tmp_path, datasets):
    lines = run(tmp_path, datasets, ["din", "msd_frozen"], 3)
    assert len(lines) == 3
    for arm in ("din", "msd_frozen"):
        made = trials_of(tmp_path, arm)
        assert len(made) == 3
        space = read_arms()[arm].space
        # What is none of the choices, such as a width of 4, stays what it is in the first trial; the rest is named.
        stands = {name: getattr(CONFIG, name) for name in space}
        stands = {name: value for name, value in stands.items() if value in space[name].get("choices", (value,))}
        assert {"embedding_dim", "dropout"} & set(stands) == {"dropout"}
        assert {name: float(value) for name, value in made[0][0].items()} == pytest.approx(stands)
        for params, _ in made[1:]:
            assert set(params) == set(space)
            assert space["learning_rate"]["low"] <= params["learning_rate"] <= space["learning_rate"]["high"]
    picture = (tmp_path / "history.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    tuned = read_arms(str(tmp_path / "best.toml"))
    best = {arm: max(trials_of(tmp_path, arm), key=lambda one: one[1]) for arm in ("din", "msd_frozen")}
    for arm, (params, value) in best.items():
        assert f"{value:.4f}" in next(line for line in lines if line.startswith(arm))
        if params != trials_of(tmp_path, arm)[0][0]:
            assert tuned[arm].settings["learning_rate"] == params["learning_rate"]
    assert not (tmp_path / "vectors").exists()


def test_it_goes_on_to_the_number_and_what_it_tries_does_not_depend_on_the_break(tmp_path, datasets, undisturbed):
    run(tmp_path / "broken", datasets, ["din"], 2)
    assert len(trials_of(tmp_path / "broken", "din")) == 2
    run(tmp_path / "broken", datasets, ["din"], 4)
    run(tmp_path / "broken", datasets, ["din"], 4)
    assert trials_of(tmp_path / "broken", "din") == undisturbed


def test_a_trial_that_was_killed_is_tried_again(tmp_path, datasets, undisturbed):
    import optuna

    run(tmp_path / "killed", datasets, ["din"], 2)
    storage = f"sqlite:///{tmp_path / 'killed' / 'trials.sqlite'}"
    study = optuna.load_study(study_name=None, storage=storage)
    study.ask().suggest_float("learning_rate", 1e-3, 2e-2, log=True)  # what SIGKILL leaves: a trial that runs on
    lines = run(tmp_path / "killed", datasets, ["din"], 3)
    assert trials_of(tmp_path / "killed", "din") == undisturbed[:3]
    assert lines[1].split()[1] == "3"


def test_out_of_time_no_round_is_begun_and_the_arms_are_level(tmp_path, datasets):
    run(tmp_path, datasets, ["din"], 2)
    lines = run(tmp_path, datasets, ["din", "deepfm"], 5, seconds=1e-9)
    assert [line.split()[1] for line in lines[1:]] == ["0", "0"]
    lines = run(tmp_path, datasets, ["din", "deepfm"], 2)
    assert [line.split()[1] for line in lines[1:]] == ["2", "2"]


def test_an_arm_that_learns_from_another_trains_that_one_once(tmp_path, datasets):
    arms = tmp_path / "arms.toml"
    arms.write_text('[elec_gain]\nvectors = "student"\n')
    config = replace(CONFIG, arms_file=str(arms))
    run(tmp_path / "t", datasets, ["elec_vanilla"], 2, config=config)
    (taught_by,) = (tmp_path / "t" / "taught-by").iterdir()
    assert taught_by.name.startswith("elec_gain-")
    assert "[elec_gain]" in (tmp_path / "t" / "best.toml").read_text()


def test_other_data_or_settings_are_another_search(tmp_path, datasets):
    run(tmp_path, datasets, ["din"], 1)
    run(tmp_path, datasets, ["din"], 1, config=replace(CONFIG, max_epochs=1))
    run(tmp_path, datasets, ["din"], 1, seeds=(2,))
    changed = datasets | {"ctr_records": replace(datasets["ctr_records"], fingerprint="f" * 16)}
    run(tmp_path, changed, ["din"], 1)
    import optuna

    assert len(optuna.get_all_study_names(f"sqlite:///{tmp_path / 'trials.sqlite'}")) == 4


def test_the_mean_over_seeds_is_what_counts(tmp_path, datasets, undisturbed):
    for name, seeds in (("both", (1, 2)), ("two", (2,))):
        run(tmp_path / name, datasets, ["din"], 1, seeds=seeds)
    both, two = (trials_of(tmp_path / name, "din")[0][1] for name in ("both", "two"))
    assert both == pytest.approx((undisturbed[0][1] + two) / 2)


def test_test_is_never_read(tmp_path, datasets, undisturbed):
    records = datasets["ctr_records"]
    folder = tmp_path / "records"
    folder.mkdir()
    for path in records.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    size = (folder / "test.npy").stat().st_size
    with (folder / "test.npy").open("r+b") as file:
        file.seek(1024)
        file.write(b"\xff" * (size - 1024))
    spoiled = datasets | {"ctr_records": replace(records, folder=folder)}
    run(tmp_path / "spoiled", spoiled, ["din"], 2)
    assert trials_of(tmp_path / "spoiled", "din") == undisturbed[:2]


def test_wrong_calls_end_in_a_sentence(tmp_path, datasets):
    with pytest.raises(UsageError, match="there is no arm dim; there are deepfm"):
        needed_datasets(CONFIG, ["din", "dim"])
    assert needed_datasets(CONFIG, ["din"]) == ["ctr_records"]
    assert "tuned_item_vectors" in needed_datasets(CONFIG, ["elec_vanilla"])
    arms_file = tmp_path / "arms.toml"
    arms_file.write_text('[plain]\nbackbone = "mlp"\n')
    assert read_arms(str(arms_file))["plain"].space, "the default space holds for new arms"


def test_best_settings_lie_over_the_users_file_and_are_read_again(tmp_path):
    own = tmp_path / "own.toml"
    own.write_text(
        '[mine]\nlike = "din"\n[mine.settings]\ndropout = 0.3\nhidden = [8, 4]\n'
        "[mine.space]\nlearning_rate = { low = 1e-5, high = 1e-2, log = true }\n"
    )
    trials = (TunedTrial(value=0.5, settings={}), TunedTrial(value=0.7, settings={"learning_rate": 2e-05, "top_k": 3}))
    cut = TunedTrial(value=None, settings={"learning_rate": 1.0})
    text = tuned_arms_file([TunedArm(name="mine", trials=(*trials, cut))], str(own))
    (tmp_path / "best.toml").write_text(text)
    assert tomllib.loads(text)["mine"]["like"] == "din"
    arm = read_arms(str(tmp_path / "best.toml"))["mine"]
    assert dict(arm.settings) == {"dropout": 0.3, "hidden": (8, 4), "learning_rate": 2e-05, "top_k": 3}
    assert arm.space["learning_rate"] == {"low": 1e-5, "high": 1e-2, "log": True}
    line = table_lines([TunedArm(name="mine", trials=(*trials, cut))])[1]
    assert line.split()[:6] == ["mine", "3", "1", "0.5000", "0.7000", "+0.2000"]


def test_an_arm_that_is_best_as_it_stands_is_left_alone(tmp_path):
    trials = (TunedTrial(value=0.7, settings={}), TunedTrial(value=0.6, settings={"dropout": 0.2}))
    text = tuned_arms_file([TunedArm(name="din", trials=trials)], "")
    assert tomllib.loads(text) == {}
    assert "as it stands" in table_lines([TunedArm(name="din", trials=trials)])[1]
