"""`msd teacher` where no server runs: exit codes and what is printed."""

import json

import pytest

from pipeline.cli import main


def call(*words):
    with pytest.raises(SystemExit) as ended:
        main(["teacher", *words])
    return ended.value.code


def test_status_of_no_server_is_said_and_fails(tmp_path, capsys):
    assert call("status", "--work", str(tmp_path / "none"), "--json") == 1
    assert json.loads(capsys.readouterr().out) == {"state": "stopped"}
    assert not (tmp_path / "none").exists(), "a question makes no folder"
    assert call("status", "--work", str(tmp_path)) == 1
    assert capsys.readouterr().out == "state: stopped\n"


def test_stopping_no_server_is_done_already(tmp_path, capsys):
    assert call("stop", "--work", str(tmp_path), "--date", "2024-01-10") == 0
    assert "no teacher server runs here" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [("stop", "--date", "yesterday"), ("status", "--date", "../2024-01-10")])
def test_a_day_that_is_none_is_a_wrong_call(tmp_path, words):
    assert call(*words, "--work", str(tmp_path)) == 2


def test_a_day_that_was_not_opened_starts_nothing(tmp_path, capsys):
    assert call("start", "--work", str(tmp_path), "--date", "2024-01-10") == 1
    assert "msd open --date 2024-01-10" in capsys.readouterr().err
