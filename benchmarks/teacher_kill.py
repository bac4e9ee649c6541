"""Three kills in a row: what `msd run teacher_outputs` generates in total when it is killed with SIGKILL on its way.

The teacher stands behind a real `vllm` server, whose own metrics count every completion and token it ever generated,
those of killed runs included. The run is killed when a quarter, a half and three quarters of the rows have been served,
then runs to its end. Wanted: at most 1.02 completions for each one the finished dataset was made from.

`python benchmarks/teacher_kill.py [ROWS]` (default 160; about four minutes on two cores)
"""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pyarrow.dataset as ds

from msd_models.language_model import SMOLLM2, model_folder

LIMIT = 1.02
CONCURRENCY = 4
"""Requests under way: what a kill may cost in tokens."""
START_SECONDS = 300


def main() -> None:
    """Starts the server, kills three runs, ends the fourth and prints the ratio."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 160
    with tempfile.TemporaryDirectory(prefix="msd-kill-") as work:
        server, port = _start_server()
        try:
            _measure(rows, Path(work), port)
        finally:
            server.send_signal(signal.SIGINT)
            try:
                server.wait(timeout=20)
            except subprocess.TimeoutExpired:
                server.kill()


def _measure(rows: int, work: Path, port: int) -> None:
    command = [sys.executable, "-m", "pipeline", "run", "--source", "movielens-100k", "--work", str(work)]
    command += ["--set", f"prompts.item_rows={rows}", "--set", "prompts.user_rows=0"]
    command += ["--set", "teacher_outputs.generator=openai", "--set", f"teacher_outputs.model={SMOLLM2}"]
    command += ["--set", f"teacher_outputs.endpoint=http://127.0.0.1:{port}/v1"]
    command += ["--set", f"teacher_outputs.concurrency={CONCURRENCY}"]
    subprocess.run([*command, "prompts"], check=True)
    for part in (0.25, 0.5, 0.75):
        run = subprocess.Popen([*command, "teacher_outputs"])
        while run.poll() is None and _served(port)[0] < part * rows:
            time.sleep(0.2)
        assert run.poll() is None, "the run ended before it could be killed"
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        print(f"killed after {_served(port)[0]:.0f} completions", flush=True)
    time.sleep(3)
    subprocess.run([*command, "teacher_outputs"], check=True)
    completions, tokens = _served(port)
    columns = ["attempts", "output_tokens"]
    made = ds.dataset(sorted(work.glob("teacher_outputs/*/part-*.parquet"))).to_table(columns=columns).to_pydict()
    wanted, wanted_tokens = sum(made["attempts"]), sum(made["output_tokens"])
    ratio = completions / wanted
    print(f"rows {len(made['attempts'])}, completions in the dataset {wanted}, generated in all {completions:.0f}")
    print(f"completions: {ratio:.4f} × what was needed (limit {LIMIT}): {'kept' if ratio <= LIMIT else 'MISSED'}")
    print(f"tokens, half-written ones of the kills included: {tokens / wanted_tokens:.4f} ×")


def _start_server() -> tuple[subprocess.Popen[bytes], int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model_folder(SMOLLM2))]
    command += ["--served-model-name", SMOLLM2, "--host", "127.0.0.1", "--port", str(port), "--max-model-len", "1024"]
    command += ["--dtype", "bfloat16", "--enforce-eager"]
    variables = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    server = subprocess.Popen(
        command,
        env=os.environ | variables | {"VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
            return server, port
        except OSError:
            if server.poll() is not None:
                sys.exit(f"the vLLM server ended with code {server.returncode}")
            time.sleep(1)
    server.kill()
    sys.exit("the vLLM server did not start")


def _served(port: int) -> tuple[float, float]:
    """(completions that ended by themselves, tokens generated) so far, as the server counts them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        metrics = answer.read().decode()
    ended = re.findall(
        r'^vllm:request_success_total\{[^}]*finished_reason="(?:stop|length)"[^}]*\} (\S+)', metrics, re.M
    )
    tokens = re.findall(r"^vllm:generation_tokens_total\{[^}]*\} (\S+)", metrics, re.M)
    return sum(map(float, ended)), sum(map(float, tokens))


if __name__ == "__main__":
    main()
