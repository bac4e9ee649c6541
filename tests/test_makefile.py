"""`make clean` leaves paid completions alone; deleting them is a target of its own, and it asks."""

import shutil
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[1] / "Makefile"


@pytest.fixture
def checkout(tmp_path):
    """A folder with the Makefile, an environment and a work folder."""
    shutil.copy(MAKEFILE, tmp_path)
    for folder in (".venv", "work/content_store"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "work" / "run.json").write_text("{}")
    return tmp_path


def make(checkout, target, answer="", **variables):
    words = [f"{name}={value}" for name, value in variables.items()]
    return subprocess.run(
        ["make", target, *words], cwd=checkout, input=answer, capture_output=True, text=True, check=False
    )


def test_clean_keeps_the_work_folder(checkout):
    assert make(checkout, "clean").returncode == 0
    assert not (checkout / ".venv").exists()
    assert (checkout / "work" / "content_store").is_dir()


@pytest.mark.parametrize(("answer", "is_deleted"), [("yes\n", True), ("y\n", False), ("no\n", False), ("", False)])
def test_clean_work_deletes_only_after_a_yes(checkout, answer, is_deleted):
    done = make(checkout, "clean-work", answer)
    assert (checkout / "work").exists() is not is_deleted
    assert (done.returncode == 0) is is_deleted
    assert (checkout / ".venv").is_dir()


def test_clean_work_deletes_nothing_that_is_no_work_folder(checkout):
    (checkout / "photos").mkdir()
    done = make(checkout, "clean-work", "yes\n", WORK="photos")
    assert done.returncode != 0
    assert "photos is no work folder" in done.stderr
    assert (checkout / "photos").is_dir()
