"""The DAG folder parsed as Airflow parses it: at most 2 s for all of it, 0.5 s for any file by itself.

Each measurement is a fresh interpreter that has imported Airflow and nothing of ours, since the scheduler's parser pays
our imports anew for every file it looks at, and every task pays them before it starts. The peer, in the same rounds, is
a folder of as many files with as many plain BashOperators: what Airflow costs without us.

`python benchmarks/dag_parse.py [--rounds 5]` (one to two minutes on two cores)
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

WANTED_FOLDER_SECONDS = 2.0
WANTED_FILE_SECONDS = 0.5
FOLDER = Path(__file__).parents[1] / "dags"
PARSE = """
import json, logging, sys, time, warnings
warnings.simplefilter("ignore")
from pathlib import Path
from airflow.dag_processing.dagbag import BundleDagBag
logging.disable(logging.CRITICAL)
started = time.perf_counter()
bag = BundleDagBag(Path(sys.argv[1]), bundle_name="dags-folder", bundle_path=Path(sys.argv[2]))
seconds = time.perf_counter() - started
assert bag.dags and not bag.import_errors, bag.import_errors
sizes = {Path(dag.fileloc).name: len(dag.tasks) for dag in bag.dags.values()}
print(json.dumps({"seconds": seconds, "sizes": sizes}))
"""
PLAIN = """from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG("{name}", schedule=None) as dag:
    for number in range({num_tasks}):
        BashOperator(task_id=f"task_{{number}}", bash_command="true")
"""


def main() -> None:
    """Measures both folders and each of our files, round by round, and prints the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        files = sorted(_parse(FOLDER, FOLDER, home)[1])
        plain = _plain_folder(home / "plain", _parse(FOLDER, FOLDER, home)[1])
        ours: list[float] = []
        peers: list[float] = []
        by_file: dict[str, list[float]] = {name: [] for name in files}
        for _ in range(rounds):
            ours.append(_parse(FOLDER, FOLDER, home)[0])
            peers.append(_parse(plain, plain, home)[0])
            for name in files:
                by_file[name].append(_parse(FOLDER / name, FOLDER, home)[0])
    _report(ours, peers, by_file)


def _report(ours: list[float], peers: list[float], by_file: dict[str, list[float]]) -> None:
    for name, seconds in by_file.items():
        print(f"{name:24} {statistics.median(seconds):6.2f} s by itself (worst {max(seconds):.2f} s)")
    folder, peer = statistics.median(ours), statistics.median(peers)
    slowest = max(statistics.median(seconds) for seconds in by_file.values())
    print(f"{'the whole folder':24} {folder:6.2f} s, plain BashOperators {peer:.2f} s: {folder / peer:.1f} x")
    is_met = folder <= WANTED_FOLDER_SECONDS and slowest <= WANTED_FILE_SECONDS
    print(
        f"wanted: folder <= {WANTED_FOLDER_SECONDS} s, file <= {WANTED_FILE_SECONDS} s; "
        f"measured {folder:.2f} s and {slowest:.2f} s: {'kept' if is_met else 'MISSED'}"
    )


def _parse(target: Path, folder: Path, home: Path) -> tuple[float, dict[str, int]]:
    """Seconds of a parse in a process of its own, and the tasks of each file."""
    variables = {"AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    ended = subprocess.run(
        [sys.executable, "-c", PARSE, str(target), str(folder)],
        env={**os.environ, **variables},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    measured = json.loads(ended.stdout.splitlines()[-1])
    return measured["seconds"], measured["sizes"]


def _plain_folder(folder: Path, sizes: dict[str, int]) -> Path:
    folder.mkdir()
    for name, num_tasks in sizes.items():
        (folder / name).write_text(PLAIN.format(name=Path(name).stem, num_tasks=num_tasks), encoding="utf-8")
    return folder


if __name__ == "__main__":
    main()
