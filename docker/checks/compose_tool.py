"""The real `docker compose config` where there is no Docker: compose needs no engine to read a file.

It is `docker compose`, else a `docker-compose` on the PATH, else Debian's package, unpacked into the cache folder and
not installed. apt checks the package's signature.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.assets import cache_folder

RELEASE = "trixie"
"""The first Debian whose docker-compose is the plugin (2.26) and not the Python program before it."""
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
PLUGIN = "usr/libexec/docker/cli-plugins/docker-compose"
FETCH_SECONDS = 180


def find_compose() -> list[str]:
    """The command that compose is called by.

    Raises:
        RuntimeError: there is none, and this is no Debian to take it from.
    """
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and _answers(command):
            return command
    kept = cache_folder() / "docker-compose"
    if not kept.is_file():
        _fetch(kept)
    return [str(kept)]


def config(file: Path, variables: Mapping[str, str], *profiles: str) -> dict[str, Any]:
    """The stack as compose understands it, every variable filled in.

    Raises:
        ValueError: compose refuses it, with its sentence.
    """
    chosen = [word for profile in profiles for word in ("--profile", profile)]
    # An .env beside the file is somebody's own: what is checked depends on what is said here alone.
    command = [*find_compose(), "--file", str(file), "--env-file", os.devnull, *chosen, "config", "--format", "json"]
    said = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **variables}
    done = subprocess.run(command, env=said, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        raise ValueError(done.stderr.strip())
    return dict(json.loads(done.stdout))


def _answers(command: list[str]) -> bool:
    done = subprocess.run([*command, "version", "--short"], capture_output=True, text=True, check=False, timeout=60)
    return done.returncode == 0 and done.stdout.lstrip("v")[:2] not in ("", "1.")


def _fetch(kept: Path) -> None:
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb") and Path(KEYRING).is_file()):
        raise RuntimeError("docker compose is not installed, and this is no Debian to take it from; install it")
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="docker-compose-", dir=kept.parent) as name:
        folder = Path(name)
        options = _private_apt(folder)
        _call(["apt-get", *options, "--quiet", "update"], folder)
        _call(["apt-get", *options, "--quiet", "download", "docker-compose"], folder)
        package = next(folder.glob("docker-compose_*.deb"))
        _call(["dpkg-deb", "--extract", str(package), str(folder / "unpacked")], folder)
        # Two who fetch at once put the same file in the same place.
        (folder / "unpacked" / PLUGIN).replace(kept)


def _private_apt(folder: Path) -> list[str]:
    """Options of an apt that knows one release and leaves this machine's own lists and packages alone."""
    for place in ("lists/partial", "cache/archives/partial"):
        (folder / place).mkdir(parents=True)
    sources = folder / "sources.list"
    sources.write_text(f"deb [signed-by={KEYRING}] {_mirror()} {RELEASE} main\n", encoding="utf-8")
    said = {
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": os.devnull,
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder / "cache",
    }
    return [word for key, value in said.items() for word in ("-o", f"{key}={value}")]


def _mirror() -> str:
    """Where this machine has its own packages from."""
    codename = ""
    for line in Path("/etc/os-release").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition("=")
        codename = value.strip('"') if key == "VERSION_CODENAME" else codename
    asked = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT)", "Created-By: Packages"]
    for line in subprocess.run(asked, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines():
        mirror, found, component = line.split()
        if (found, component) == (codename, "main"):
            return mirror
    raise RuntimeError("apt knows no packages of this Debian; run: apt-get update; or install docker compose")


def _call(command: list[str], folder: Path) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=FETCH_SECONDS,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        raise RuntimeError(f"docker compose cannot be fetched: {' '.join(command)}: {done.stderr.strip()[-500:]}")
