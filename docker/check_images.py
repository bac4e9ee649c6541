"""Carries out every image's install and start commands in a clean folder, and its health check against what it started.

No container engine is needed: the Dockerfile itself is read, and what it would do to an image is done to a folder.
Prints what each image weighs and how soon it answers; ends with an error where it can import what it must not.
The gpu image is resolved only: its packages are for another machine. Gigabytes and minutes.
"""

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "checks"))

from dockerfile import read  # noqa: E402 (the folder beside this script)
from rehearsal import Rehearsal  # noqa: E402

ANSWER_SECONDS = 240.0
LOOPBACK = {
    "AIRFLOW__API__HOST": "127.0.0.1",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_HOST": "127.0.0.1",
    "SPARK_LOCAL_IP": "127.0.0.1",
    "SPARK_MASTER_HOST": "127.0.0.1",
}
"""A container's servers listen to its network; here that would be everybody's."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What an image has to be able to do."""

    environment: str
    """The Python environment that is weighed and asked for imports."""
    has: tuple[str, ...]
    has_not: tuple[str, ...]
    prepare: tuple[str, ...] = ()
    """Commands that come before the start: what compose's init container or a first publication does."""
    port: str = ""
    """The variable or option that moves the server to a free port; the image's own port is taken where it has none."""
    works: tuple[str, ...] = ()
    """Commands of the image's everyday work, each of which has to end well."""


SETTINGS = (
    "from pathlib import Path; from feature_repo.store import write_settings; write_settings(Path('feast'), None)"
)
ITEMS = "--source tiny-world --preset tiny-world --work {work}/w"
IMAGES = {
    "airflow": Expected(
        environment="opt/airflow",
        has=("airflow", "psycopg2", "asyncpg", "dags.chain", "pipeline"),
        has_not=("torch", "feast", "vllm", "transformers", "duckdb"),
        prepare=("python -m dags.laptop.bootstrap",),
        port="AIRFLOW__API__PORT",
        works=("airflow version", "airflow dags list-import-errors --local"),
    ),
    "spark": Expected(
        environment="opt/msd",
        has=("pyspark", "pyarrow", "pip", "spark_jobs.items"),
        has_not=("torch", "feast", "airflow", "vllm", "redis"),
        port="SPARK_MASTER_WEBUI_PORT",
        works=(
            f"spark-submit --master local[1] {{root}}/opt/msd/lib/python3.11/site-packages/spark_jobs/items.py {ITEMS}",
        ),
    ),
    "store": Expected(
        environment="opt/msd",
        has=("feast", "redis", "duckdb", "feature_repo.lookup"),
        has_not=("torch", "pyspark", "airflow", "vllm"),
        prepare=(f'python -c "{SETTINGS}"',),
        port="--port",
    ),
    "cpu": Expected(
        environment="opt/msd",
        has=("pip", "torch", "vllm", "transformers", "feast", "pyspark", "msd_models.teacher"),
        has_not=("airflow",),
        prepare=("python -m dags.laptop.bootstrap",),
        port="AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT",
        works=(f"{{root}}/opt/msd/bin/msd run item_stats {ITEMS}", "{root}/opt/msd/bin/msd list --work {work}/w"),
    ),
}


def check(name: str, folder: Path) -> str:
    """One image from install to health check; returns its line of the table.

    Raises:
        subprocess.CalledProcessError: one of the image's commands fails.
        SystemExit: the image is not what it has to be.
    """
    expected = IMAGES[name]
    image = Rehearsal(dockerfile=read(HERE / "Dockerfile"), context=HERE.parent, root=folder, find_links=_find_links())
    image.build(name)
    said = {**image.environment(name), "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder}/work/airflow.db"}
    said |= LOOPBACK | {"MSD_SECRETS_FOLDER": str(folder / "run/secrets")}
    python = folder / expected.environment / "bin/python"
    _check_imports(python, expected, said)
    for command in (*expected.prepare, *expected.works):
        _call(command.format(root=folder, work=folder / "work"), said, folder / "work")
    seconds = _start_and_ask(image, name, expected, said)
    # Bytecode is part of the image; links into the package cache are weighed as the files they are.
    weights = " + ".join(f"{place} {_mebibytes(folder / place):,} MiB" for place in ("opt/airflow", "opt/msd"))
    return f"{name:8} {weights}; answers its health check after {seconds:.0f} s"


def _check_imports(python: Path, expected: Expected, said: dict[str, str]) -> None:
    probe = "import importlib.util as u, sys; sys.exit(0 if u.find_spec(sys.argv[1]) else 3)"
    for module in expected.has:
        subprocess.run([str(python), "-c", f"import {module}"], env=said, check=True, timeout=240)
    for module in expected.has_not:
        found = subprocess.run([str(python), "-c", probe, module], env=said, check=False, timeout=60)
        if found.returncode != 3:
            sys.exit(f"{module} can be imported by {python}, and must not be")


def _call(command: str, said: dict[str, str], folder: Path) -> None:
    sys.stderr.write(f"    {command}\n")
    sys.stderr.flush()
    done = subprocess.run(
        ["sh", "-euc", command], env=said, cwd=folder, check=False, timeout=600, text=True, capture_output=True
    )
    if done.returncode != 0:
        sys.exit(f"{command} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


def _start_and_ask(image: Rehearsal, name: str, expected: Expected, said: dict[str, str]) -> float:
    """Starts what the image starts, on a free port, until its health check is content; ends it again."""
    port = free_port()
    command = ["127.0.0.1" if word == "0.0.0.0" else word for word in image.command(name)]
    if expected.port.startswith("--"):
        command[command.index(expected.port) + 1] = str(port)
    address = said["MSD_HEALTH"].split("/")
    address[2] = f"127.0.0.1:{port}"
    said = {**said, expected.port.lstrip("-"): str(port), "MSD_HEALTH": "/".join(address)}
    started = time.monotonic()
    with _running(command, said, image.root / "work") as process:
        while subprocess.run(image.health(name), env=said, check=False, capture_output=True, timeout=60).returncode:
            if process.poll() is not None or time.monotonic() - started > ANSWER_SECONDS:
                sys.exit(f"{name} does not answer at {said['MSD_HEALTH']}: {_tail(image.root / 'work/log')}")
            time.sleep(0.5)
        return time.monotonic() - started


@contextlib.contextmanager
def _running(command: list[str], said: dict[str, str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=said, cwd=folder, stdout=log, stderr=log, start_new_session=True)
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def check_gpu() -> str:
    """Resolves the gpu image's packages for linux x86-64; installs nothing."""
    lock = HERE / "gpu.lock"
    uv = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "--quiet", "--no-config", str(lock)]
    platform = ["--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28", "--no-deps", "-o", os.devnull]
    subprocess.run([*uv, *platform], check=True, timeout=600)
    pins = [line for line in lock.read_text(encoding="utf-8").splitlines() if "==" in line and not line.startswith("#")]
    return f"gpu      resolved only: {len(pins)} packages are there to be had; nothing installed, nothing started"


def _find_links() -> str:
    said = os.environ.get("UV_FIND_LINKS", "")
    if said:
        return said
    for key in ("global.find-links", ":env:.find-links"):
        asked = ["python3", "-m", "pip", "config", "get", key]
        found = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=60)
        if found.returncode == 0:
            return found.stdout.strip()
    return ""


def _mebibytes(folder: Path) -> int:
    if not folder.is_dir():
        return 0
    done = subprocess.run(
        ["du", "--summarize", "--block-size=1M", str(folder)], capture_output=True, text=True, check=True
    )
    return int(done.stdout.split()[0])


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-4000:]


def main() -> None:
    """Checks the images named, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("images", nargs="*", metavar="IMAGE", help=f"of {', '.join(IMAGES)}, gpu; all if none is named")
    parser.add_argument("--folder", type=Path, help="where the environments are made; a temporary folder if not given")
    parser.add_argument("--keep", action="store_true", help="leave the environments there")
    arguments = parser.parse_args()
    unknown = set(arguments.images) - {*IMAGES, "gpu"}
    if unknown:
        parser.error(f"there is no image {', '.join(sorted(unknown))}")
    place = arguments.folder or Path(tempfile.mkdtemp(prefix="msd-images-"))
    lines = []
    for name in arguments.images or [*IMAGES, "gpu"]:
        sys.stderr.write(f"{name}\n")
        folder = place.resolve() / name
        try:
            lines.append(check_gpu() if name == "gpu" else check(name, folder))
        finally:
            if not arguments.keep:
                shutil.rmtree(folder, ignore_errors=True)
        sys.stdout.write(f"{lines[-1]}\n")
        sys.stdout.flush()
    if not arguments.keep and arguments.folder is None:
        place.rmdir()


if __name__ == "__main__":
    main()
