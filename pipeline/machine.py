"""What this machine is good for: its instructions, and how fast it multiplies matrices and runs Python.

The rates are measured by a child process (`msd_models.machine_speed`), since nothing here imports torch; the last ones
are kept in the cache folder.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.assets import cache_folder
from pipeline.errors import ServiceError
from pipeline.storage import write_atomically

WORKER = ("-m", "msd_models.machine_speed")
BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16", " bf16")
"""As /proc/cpuinfo has them; the last one is ARM's."""
BFLOAT16_LIMITS = ("ALL", "DEFAULT", "AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX512_CORE_AMX", "AVX10_1_512")
"""Values of ONEDNN_MAX_CPU_ISA that leave oneDNN a native product of bfloat16."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Rates of one core of this machine."""

    float32: float
    """GFLOP/s of matrix products in float32."""
    bfloat16: float
    """The same in bfloat16."""
    python: float
    """Units of a fixed piece of Python a second."""
    cores: int
    share: float
    """Of a core that a busy process got while this was measured: below 1, other programs took the rest."""
    limits: str
    """What the environment forbids the libraries: rates under other limits are another machine's."""


def multiplies_bfloat16() -> bool:
    """Whether this processor has native products of bfloat16 and its libraries may use them.

    ATEN_CPU_CAPABILITY and ONEDNN_MAX_CPU_ISA make a processor behave like an older one, so they count like its flags.
    """
    if os.environ.get("ATEN_CPU_CAPABILITY", "").lower() in ("default", "avx2"):
        return False
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    if not limit.startswith(BFLOAT16_LIMITS):
        return False
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and any(
        flag in flags.read_text(encoding="utf-8", errors="replace") for flag in BFLOAT16_FLAGS
    )


def measure() -> Speed:
    """The rates, measured in a few seconds and kept.

    Raises:
        ServiceError: the child process failed, as where torch is not installed.
    """
    ended = subprocess.run([sys.executable, *WORKER], capture_output=True, text=True, check=False)
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or ["no message"])[-1]
        raise ServiceError(f"the machine's speed cannot be measured: {last}; see: msd doctor")
    speed = Speed(**json.loads(ended.stdout), limits=_limits())
    path = _path()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(asdict(speed)).encode())
    return speed


def last_measured() -> Speed | None:
    """The rates of the last measurement under the same limits; None where there is none."""
    try:
        speed = Speed(**json.loads(_path().read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return speed if speed.limits == _limits() else None


def _path() -> Path:
    return cache_folder() / "machine_speed.json"


def _limits() -> str:
    return " ".join(os.environ.get(name, "") for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")).strip()
