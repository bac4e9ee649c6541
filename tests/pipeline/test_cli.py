"""The command as a person meets it: exit codes, one sentence on stderr, no traceback."""

import json

import pytest

from pipeline import cli, results
from pipeline.stages import BY_NAME


def call(*arguments: str) -> int:
    """Exit code of the command."""
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    return int(ended.value.code or 0)


@pytest.fixture
def source_file(tmp_path):
    """A source whose files exist."""
    (tmp_path / "items.csv").write_text("item_id,title\n1,one\n")
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp,label\n1,1,1700000000,1\n")
    path = tmp_path / "mine.toml"
    path.write_text('[items]\npath = "items.csv"\n[events]\npath = "events.csv"\ntime = "timestamp"\nlabel = "label"\n')
    return path


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run"], "name the datasets to make"),
        (["run", "itemz"], "there is no dataset 'itemz'"),
        (["run", "items", "--source", "nope.toml"], "neither a file nor a built-in name"),
        (["run", "items", "--source", "mind"], "write --source mind:FOLDER"),
        (["run", "items", "--preset", "huge"], "there is no preset 'huge'"),
        (["run", "items", "--set", "histories.embed_grow=2"], "did you mean 'embed_growth'?"),
        (["run", "items", "--set", "teacher_outputs.temperature=hot"], "must be a number"),
        (["run", "items", "--set", "nonsense"], "write stage.key=value"),
        (["show", "itemz"], "there is no dataset 'itemz'"),
    ],
)
def test_a_wrong_call_ends_with_exit_code_2_and_says_what_was_wanted(
    arguments, sentence, source_file, tmp_path, capsys
):
    if "--source" not in arguments:
        arguments = [*arguments, "--source", str(source_file)]
    assert call(*arguments, "--work", str(tmp_path / "work")) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert "Traceback" not in said


def test_a_dataset_that_is_not_made_names_the_command_that_makes_it(source_file, tmp_path, capsys):
    assert call("show", "items", "--source", str(source_file), "--work", str(tmp_path / "work")) == 1
    assert "run: msd run items" in capsys.readouterr().err


def test_list_names_every_stage_and_remembers_nothing(source_file, tmp_path, capsys):
    assert call("list", "--source", str(source_file), "--work", str(tmp_path / "work")) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in BY_NAME)
    assert not (tmp_path / "work" / "run.json").exists()


def test_a_run_is_remembered_where_it_fails_and_forgotten_where_the_call_is_wrong(source_file, tmp_path, capsys):
    work, source = tmp_path / "work", ("--source", str(source_file))
    lacking_input = ("run", "teacher_outputs", "--slice", "1/2")
    assert call(*lacking_input, *source, "--preset", "tiny", "--work", str(work)) == 1
    kept = (work / "run.json").read_bytes()
    assert json.loads(kept)["preset"] == "tiny"
    whole_table = ("run", "items", "--slice", "1/2")
    assert call(*whole_table, *source, "--set", "ctr_model.patience=9", "--work", str(work)) == 2
    assert (work / "run.json").read_bytes() == kept


def test_a_work_folder_that_is_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "work").write_text("")
    assert call("list", "--source", "tiny-world", "--work", str(tmp_path / "work")) == 2
    assert "name a folder" in capsys.readouterr().err


def test_help_names_every_command(capsys):
    assert call("--help") == 0
    said = capsys.readouterr().out
    assert all(command in said for command in ("demo", "run", "list", "show", "doctor"))


def test_results_rows_come_from_the_report_alone():
    arm = {"name": "din", "auc": 0.75, "auc_ci": [0.74, 0.76], "gauc_user": None, "delta_auc_vs": {}}
    other = arm | {"name": "msd_frozen", "rela_impr": 1.5, "delta_auc_vs": {"din": [-0.01, 0.02, 0.03]}}
    report = json.loads(json.dumps({"arms": [arm, other]}))
    first, second = results.results_rows(report)
    assert len(first) == len(results.COLUMNS)
    assert first[:3] == ("din", "0.7500 [0.7400, 0.7600]", "–")
    assert second[2:4] == ("+0.0200 [-0.0100, +0.0300]", "+1.50")
