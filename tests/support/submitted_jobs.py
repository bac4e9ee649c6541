"""A tiny world small enough for many jobs, and spark-submit on a machine where only the archive brings our code."""

import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyspark
from standalone_cluster import environment, small

from pipeline import tiny_world
from pipeline.runner import Plan, make_plan, run
from pipeline.settings import resolve
from pipeline.source import load_source
from pipeline.storage import Workspace
from spark_jobs.package import write_package

SIZE = tiny_world.Size(num_items=80, num_users=40, events_per_user=15)
SOURCE = """
[items]
path = "items.parquet"
text = ["title"]
category = "category"
attributes = ["maker"]
[events]
path = "events.parquet"
time = "timestamp"
label = "click"
context = ["place"]
text_context = ["place"]
[users]
path = "users.parquet"
attributes = ["motto", "region"]
[labels]
split = { by = "time", fractions = [0.7, 0.1, 0.2] }
"""
SETTINGS = (
    "prompts.item_rows=30",
    "prompts.user_rows=15",
    "teacher_outputs.shard_rows=16",
    "student.epochs=1",
    "student.max_holdout_rows=4",
    "item_vectors.shard_rows=32",
    "user_vectors.shard_rows=64",
    "publication.shard_rows=64",
    "publication.max_mean_cosine=1.0",
    "tuned_publication.max_mean_cosine=1.0",
    "tuned_student.max_steps=4",
    'ctr_model.arms=["din", "msd"]',
    "ctr_model.seeds=[1]",
    "ctr_model.max_epochs=1",
)


class SmallWorld:
    """Source files, and plans of work folders beside them."""

    def __init__(self, folder: Path) -> None:
        """Writes the files, the events with a context beside them."""
        import pyarrow.parquet as pq

        self.folder = folder
        tiny_world.write(folder, SIZE)
        events = pq.read_table(folder / "events.parquet")
        places = [f"the {('hill', 'coast')[number % 2]} at {number % 7}" for number in range(events.num_rows)]
        pq.write_table(events.append_column("place", [places]), folder / "events.parquet")
        (folder / "mine.toml").write_text(SOURCE)
        self.settings = (*SETTINGS, f"teacher_outputs.script={folder / 'teacher.jsonl'}")

    def plan(self, work: str) -> Plan:
        """What the work folder of that name is to hold."""
        source = load_source(str(self.folder / "mine.toml"))
        return make_plan(Workspace(self.folder / work), source, resolve("tiny-world", self.settings))

    def words(self, work: str) -> list[str]:
        """The call of a job, as a person would type it."""
        words = [
            "--source",
            str(self.folder / "mine.toml"),
            "--preset",
            "tiny-world",
            "--work",
            str(self.folder / work),
        ]
        return [*words, *(word for setting in self.settings for word in ("--set", setting))]


class BareMachine:
    """A virtual environment with the libraries and without the project, and the two archives a submit brings along."""

    def __init__(self, folder: Path) -> None:
        """Makes them."""
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
        self.python = folder / "venv" / "bin" / "python"
        # A path named in a .pth is searched, its own .pth files are not: the project's editable install is not found.
        libraries = folder / "venv" / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
        (libraries / "libraries.pth").write_text(sysconfig.get_paths()["purelib"])
        self.archive = write_package(folder / "package")
        self.environment = shutil.make_archive(str(folder / "environment"), "gztar", folder / "venv")

    def submit(self, master: str, name: str, words: Sequence[str], confs: Mapping[str, str]) -> None:
        """Runs the job of that file to its end; fails with what it said."""
        there = self.python if master.startswith("local") else "./environment/bin/python"
        pythons = {"spark.pyspark.driver.python": str(self.python), "spark.pyspark.python": str(there)}
        told = [word for pair in (small() | pythons | dict(confs)).items() for word in ("--conf", "=".join(pair))]
        command = [Path(sys.executable).parent / "spark-submit", "--master", master, *told]
        command += ["--py-files", self.archive, "--archives", f"{self.environment}#environment"]
        command += [self.archive.with_name(f"{name}.py"), *words]
        known = {key: value for key, value in environment().items() if key != "PYSPARK_PYTHON"}
        done = subprocess.run(
            command,
            env=known | {"SPARK_HOME": str(Path(pyspark.__file__).parent)},
            capture_output=True,
            text=True,
            cwd=self.folder,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{name}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def make_here(plan: Plan, *names: str) -> None:
    """As `msd run` does."""
    run(plan, list(names))
