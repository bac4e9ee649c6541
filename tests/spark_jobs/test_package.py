"""The archive: the same code gives the same bytes, and out of it everything is found that lies beside the code."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.runner import make_plan
from pipeline.settings import resolve
from pipeline.source import load_source
from pipeline.storage import Workspace
from spark_jobs.package import jobs, main, write_package

TOLD_FROM_THE_ARCHIVE = """
import json, sys
from pathlib import Path
import pipeline
from pipeline.packaged import archive, packaged
from pipeline.runner import make_plan
from pipeline.settings import presets, resolve
from pipeline.source import built_in_sources, load_source
from pipeline.storage import Workspace
from msd_models.arms_file import read_arms
from msd_models.phrase_threshold import SHIPPED_PAIRS, read_pairs
from msd_models.teacher_prompt import Templates

plan = make_plan(Workspace(Path(sys.argv[1])), load_source("tiny-world"), resolve("tiny-world"))
print(json.dumps({
    "home": pipeline.__file__, "archive": str(archive()), "fingerprints": plan.fingerprints, "presets": presets(),
    "sources": built_in_sources(), "arms": len(read_arms()), "pairs": len(read_pairs(packaged(SHIPPED_PAIRS))),
    "templates": Templates("key-phrases") is not None, "keeper": packaged("feature_repo/redis_keeper.py").is_file(),
}))
"""


@pytest.fixture(scope="module")
def zipped(tmp_path_factory):
    return write_package(tmp_path_factory.mktemp("package"))


def test_the_same_code_gives_the_same_bytes(zipped, tmp_path):
    assert write_package(tmp_path).read_bytes() == zipped.read_bytes()
    names = zipfile.ZipFile(zipped).namelist()
    assert "pipeline/presets/tiny.toml" in names
    assert "msd_models/templates/key-phrases/item.zh.jinja" in names
    assert not [name for name in names if "__pycache__" in name or "/." in name or name.startswith(("dags", "tests"))]


def test_the_jobs_lie_beside_it_as_they_are(zipped):
    several = jobs()["items"].with_name("run.py")
    assert {path.stem for path in zipped.parent.glob("*.py")} == {*jobs(), "run"}
    for name, job in (jobs() | {"run": several}).items():
        assert zipped.with_name(f"{name}.py").read_bytes() == job.read_bytes()


def test_code_out_of_the_archive_finds_its_files_and_the_same_fingerprints(zipped, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(zipped), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    words = [sys.executable, "-c", TOLD_FROM_THE_ARCHIVE, str(tmp_path / "work")]
    for _ in range(2):
        done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert Path(told["home"]).parents[1] == Path(told["archive"]) == zipped
        plan = make_plan(Workspace(tmp_path / "here"), load_source("tiny-world"), resolve("tiny-world"))
        assert told["fingerprints"] == dict(plan.fingerprints)
        assert told["arms"] > 10
        assert told["pairs"] > 10
        assert told["keeper"]
    assert len(list((tmp_path / "cache" / "msd").glob("packages-*"))) == 1


def test_an_archive_makes_no_archive_and_a_file_is_no_folder(zipped, tmp_path, capsys):
    environment = os.environ | {"PYTHONPATH": str(zipped)}
    words = [sys.executable, "-m", "spark_jobs.package", str(tmp_path / "again")]
    done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "such an archive already" in done.stderr
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file; name a folder"):
        write_package(tmp_path / "file")
    assert main([str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out" / "msd.zip")
