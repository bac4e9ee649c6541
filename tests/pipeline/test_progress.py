"""What a person sees while a stage works: a line at least every so many seconds, whatever the stage does."""

import time

from pipeline.progress import heartbeat, note, progress


def test_a_silent_stage_is_said_to_be_under_way_and_one_that_speaks_is_left_alone(capsys):
    with heartbeat("items", quiet_seconds=0.2):
        time.sleep(0.7)
    silent = capsys.readouterr().err.splitlines()
    assert len(silent) >= 2
    assert all(line.startswith("      still at items, ") and line.endswith(" s") for line in silent)
    with heartbeat("users", quiet_seconds=1.0):
        for _ in range(14):
            note("a line")
            time.sleep(0.1)
    assert "still at" not in capsys.readouterr().err


def test_a_count_that_does_not_move_is_silence_too(capsys):
    with heartbeat("teacher_outputs", quiet_seconds=0.2), progress("teacher_outputs", 100) as advance:
        advance(1)
        time.sleep(0.3)
    assert "still at teacher_outputs" in capsys.readouterr().err


def test_nothing_is_said_after_the_stage(capsys):
    with heartbeat("items", quiet_seconds=0.1):
        pass
    time.sleep(0.3)
    assert capsys.readouterr().err == ""
