"""Our code as one archive for `--py-files`: `python -m spark_jobs.package OUT`, for clusters it is not installed on.

OUT then holds msd.zip (the four packages that a job needs, with their data files) and beside it each file that
spark-submit takes, so that OUT is all a machine needs that submits jobs. The same code gives the same bytes. Libraries
(pyarrow, torch, …) are not in it: docs/spark.md says how they come.
"""

import argparse
import sys
import zipfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from pipeline.errors import MsdError, UsageError
from pipeline.progress import note
from pipeline.stages import BY_NAME
from pipeline.storage import write_atomically

ARCHIVE = "msd.zip"
SEVERAL = "run.py"
"""The job that makes several datasets."""
PACKAGES = ("feature_repo", "msd_models", "pipeline", "spark_jobs")
EPOCH = (1980, 1, 1, 0, 0, 0)
"""Of every member; the earliest time that a zip can tell."""


def write_package(folder: Path) -> Path:
    """Writes the archive and the jobs; returns the archive's path.

    Raises:
        UsageError: the folder is a file, or this code is itself imported from an archive.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a folder that {ARCHIVE} is written to")
    folder.mkdir(parents=True, exist_ok=True)
    zipped = folder / ARCHIVE
    aside = zipped.with_suffix(".writing")
    with zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED) as archive:
        for package in PACKAGES:
            for path, name in _members(package):
                archive.writestr(_member(name), path.read_bytes())
    aside.replace(zipped)
    for job in (*jobs().values(), _home("spark_jobs") / SEVERAL):
        write_atomically(folder / job.name, job.read_bytes())
    return zipped


def jobs() -> dict[str, Path]:
    """Of each dataset that Spark makes, the file that spark-submit takes."""
    home = _home("spark_jobs")
    return {name: home / f"{name}.py" for name in BY_NAME if (home / f"{name}.py").is_file()}


def _members(package: str) -> Iterator[tuple[Path, str]]:
    """Files of a package and their names in the archive, in order."""
    home = _home(package)
    for path in sorted(home.rglob("*")):
        inside = path.relative_to(home)
        if path.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in inside.parts):
            yield path, f"{package}/{inside.as_posix()}"


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, EPOCH)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    return info


def _home(package: str) -> Path:
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise UsageError(f"{package} cannot be imported; install the project first: make setup")
    home = Path(found.submodule_search_locations[0])
    if not home.is_dir():
        raise UsageError(f"this code runs out of {home.parent} itself, which is such an archive already; copy it")
    return home


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the package; prints the archive's path."""
    parser = argparse.ArgumentParser(prog="python -m spark_jobs.package", description="Code for --py-files.")
    parser.add_argument("folder", type=Path, metavar="OUT", help=f"gets {ARCHIVE} and the jobs' files")
    try:
        zipped = write_package(parser.parse_args(arguments).folder)
    except MsdError as error:
        note(f"package: {error}")
        return error.exit_code
    sys.stdout.write(f"{zipped}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
