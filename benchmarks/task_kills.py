"""Kill -9 of running tasks, again and again: the chain ends green all the same, with the same report.

Claim: after 20 random SIGKILLs the chain of one date ends green, and the digest of its report is that of a run that
nobody disturbed.

The undisturbed run is one command in a work folder of its own. The chain then runs through a real scheduler, and at
random moments a random running task loses, at random: its command alone; its runner (Airflow's task process) alone; or
runner, command and all they started; no task more than twice. Only what is killed is counted; where the chain ends
before there are enough, it goes on with the next date. Shown: each kill, what became of the chain, and the share of
kills survived.

`--workers` kills the executor's workers too, of which the scheduler learns by a missing heartbeat. That is no task
process, and not all of it is survived: a worker of LocalExecutor that dies while it reads the common queue leaves it
locked, and the chain stands still until the scheduler is started again.
"""

import argparse
import os
import random
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil
from small_chain import PARAMS, laptop, report_digest, run_by_hand

from dags.laptop.chain_run import ChainRun, follow, trigger
from dags.laptop.home import Home
from dags.laptop.rest import Airflow
from dags.laptop.services import members

WAYS = {"command": 6, "runner": 6, "tree": 6}
"""How often each is drawn."""
MOST_OF_A_TASK = 2
"""Else a task that takes longer than the pause between two kills would have them all."""
WORKER_WAYS = {**WAYS, "worker": 2}
WORKER_TITLE = "airflow worker -- LocalExecutor: "
VARIABLES = {"MSD_RETRIES": "30", "MSD_RETRY_SECONDS": "1"}


@dataclass(frozen=True)
class Victim:
    """A running task: its worker, Airflow's task process below it, and what that started."""

    worker: psutil.Process
    runner: psutil.Process
    started: list[psutil.Process]

    @property
    def name(self) -> str:
        """DAG and task, as the command was told."""
        try:
            dag, _, task, _ = self.started[0].environ()["MSD_RUN_ID"].split("/")
            return f"{dag}.{task}"
        except (IndexError, KeyError, ValueError, psutil.Error):
            return "a task that had not begun its command"


class Killer:
    """Kills a running task every now and then."""

    def __init__(self, home: Home, options: argparse.Namespace) -> None:
        self.left: int = options.kills
        self._ways = WORKER_WAYS if options.workers else WAYS
        self.done: Counter[str] = Counter()
        self._of_task: Counter[str] = Counter()
        self._home = home
        self._random = random.Random(options.seed)
        self._pause_seconds = options.pause_seconds
        self._next = time.monotonic() + self._random.uniform(1, options.pause_seconds)

    def look(self, runs: list[ChainRun]) -> None:
        """Called by whoever follows the chain, about once a second."""
        if not self.left or time.monotonic() < self._next:
            return
        victims = [victim for victim in running_tasks(self._home) if self._of_task[victim.name] < MOST_OF_A_TASK]
        [way] = self._random.choices(list(self._ways), list(self._ways.values()))
        if victims and self._kill(self._random.choice(victims), way):
            self.left -= 1
            self._next = time.monotonic() + self._random.uniform(1, self._pause_seconds)

    def _kill(self, victim: Victim, way: str) -> bool:
        doomed = {
            "command": victim.started,
            "runner": [victim.runner],
            "tree": [victim.runner, *victim.started],
            "worker": [victim.worker],
        }[way]
        name, killed = victim.name, 0
        for process in doomed:
            try:
                process.kill()
                killed += 1
            except psutil.NoSuchProcess:
                continue
        if killed:
            self.done[way] += 1
            self._of_task[name] += 1
            print(f"{time.strftime('%H:%M:%S')} killed the {way} of {name}: {killed} processes", flush=True)
        return bool(killed)


def main() -> None:
    """Prints the kills, the digests and the share of kills survived."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dates", nargs="+", default=["2023-11-25", "2023-11-24", "2023-11-23"], metavar="DATE")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", action="store_true", help="kill the executor's workers as well")
    parser.add_argument("--pause-seconds", type=float, default=50.0, help="at most this long between two kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="where the work folders are made; a temporary folder if left out")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="msd-kills-", dir=arguments.folder) as folder:
        work, undisturbed = Path(folder) / "killed", Path(folder) / "undisturbed"
        with laptop(work, VARIABLES) as home:
            killer = Killer(home, arguments)
            dates = []
            for date in arguments.dates:
                if killer.left:
                    dates.append(date)
                    check_green(home, date, killer)
        for date in dates:
            wanted, got = run_by_hand(undisturbed, date), report_digest(work, date)
            same = "the same" if got == wanted else "NOT THE SAME"
            print(f"{date}: digest {got[:16]}, undisturbed {wanted[:16]}: {same}")
            if got != wanted:
                raise SystemExit(1)
    kills = sum(killer.done.values())
    told = ", ".join(f"{number} {way}" for way, number in killer.done.items())
    share = kills / arguments.kills
    print(f"{kills} kills ({told}) over {len(dates)} chains, all green: {share:.2f} of {arguments.kills}")


def check_green(home: Home, date: str, killer: Killer) -> None:
    """Runs the chain of a day under the killer; stops the benchmark where it does not end green."""
    started = time.monotonic()
    airflow = Airflow(home.url)
    [chain_run] = follow(airflow, [date], trigger(airflow, date, PARAMS), show=killer.look)
    tries = sum(max(task["try_number"], 1) - 1 for hop in chain_run.hops for task in hop.tasks)
    became = "green" if chain_run.is_green else "NOT GREEN"
    print(f"{date}: {became} in {time.monotonic() - started:.0f} s, {tries} retries", flush=True)
    if not chain_run.is_green:
        raise SystemExit(f"{[hop.state for hop in chain_run.hops]} {chain_run.trouble}")


def running_tasks(home: Home) -> list[Victim]:
    """The tasks under way; an idle worker is left alone, as it holds the queue that the others read."""
    victims = []
    for process in members(home):
        if not title(process) or title(process) == "<idle>":
            continue
        try:
            for runner in process.children():
                victims.append(Victim(process, runner, runner.children(recursive=True)))
        except psutil.NoSuchProcess:
            continue
    return victims


def title(process: psutil.Process) -> str:
    """What a worker says it does; empty for other processes."""
    try:
        said = " ".join(process.cmdline())
    except psutil.Error:
        return ""
    return said.removeprefix(WORKER_TITLE).strip() if said.startswith(WORKER_TITLE) else ""


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
