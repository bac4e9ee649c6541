"""Trainings of arms side by side, each lane a process that trains one after the other on threads of its own.

A step of a click model is some hundred operations of a fraction of a millisecond: a second thread has nothing to do in
most of them, a second training keeps a second core busy all the time. The result is that of one process.
"""

import os
import queue
from collections.abc import Mapping, Sequence

from msd_models.arms import Arm
from msd_models.ctr_job import Job, write_job
from msd_models.model_process import Event, ModelProcess
from pipeline.errors import StageError
from pipeline.log_lines import carried
from pipeline.progress import Advance, note

WORKER = ("-m", "msd_models.ctr_lane")
MOST_LANES = 8
"""Each takes some 400 MiB and a pool of records."""
LEAST_ROWS = 1_000_000
"""Training rows, over all epochs, that are worth starting processes for: half a minute on one core."""


def lanes_for(wanted: int, num_jobs: int, rows: float) -> int:
    """How many lanes train.

    Args:
        wanted: `ctr_model.side_by_side`; 0 asks for what pays on this machine.
        num_jobs: trainings that are left.
        rows: they read at most.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = wanted or (min(cores, MOST_LANES) if rows >= LEAST_ROWS else 1)
    return max(min(most, num_jobs), 1)


class Share:
    """A training's part of a progress bar: one that stops early leaves rows, which `finish` fills in."""

    def __init__(self, advance: Advance, total: float) -> None:
        """Of so many rows."""
        self.advance, self.left = advance, total

    def __call__(self, amount: float = 1) -> None:
        """Adds rows that are done."""
        self.left -= amount
        self.advance(amount)

    def finish(self) -> None:
        """The training is over."""
        self(self.left)


def train_in_lanes(jobs: Sequence[Job], arms: Mapping[str, Arm], lanes: int, shares: Mapping[str, Share]) -> None:
    """Trains every job, an arm that learns from another after that one.

    Args:
        jobs: whose runs are not there yet.
        arms: by name.
        lanes: processes.
        shares: by job's name.

    Raises:
        StageError: a process died, or a training failed.
    """
    plan = JobOrder(jobs, arms)
    events: queue.Queue[Event] = queue.Queue()
    variables = {"OMP_NUM_THREADS": str(max(jobs[0].config.threads, 1))}
    processes = [ModelProcess(WORKER, carried(), variables, events) for _ in range(lanes)]
    try:
        for process in processes:
            _give_next(plan, process)
        while any(process.in_flight for process in processes):
            process, reply = events.get()
            if reply is None:
                raise StageError(f"ctr_model: {process.failure()}; what is trained stays: run the same command again")
            if "error" in reply:
                raise StageError(str(reply["error"]))
            if "rows" in reply:
                shares[str(reply["id"])](float(reply["rows"]))
                continue
            shares[str(reply["id"])].finish()
            note(str(reply["done"]))
            process.in_flight.clear()
            plan.finish(str(reply["id"]))
            for idle in processes:
                if not idle.in_flight:
                    _give_next(plan, idle)
    finally:
        for process in processes:
            process.stop()


def _give_next(plan: "JobOrder", process: ModelProcess) -> None:
    job = plan.next_job()
    if job is not None:
        folder = job.folder / "jobs" / job.name
        write_job(job, folder)
        process.send({"id": job.name, "folder": str(folder)})


class JobOrder:
    """Which job comes next: those that others wait for first."""

    def __init__(self, jobs: Sequence[Job], arms: Mapping[str, Arm]) -> None:
        """Of these jobs; an arm's teacher that is not among them is trained already."""
        names = {job.name: job for job in jobs}
        self.waits_for = {
            job.name: teacher for job in jobs if (teacher := f"{arms[job.arm].learns_from}-{job.seed}") in names
        }
        taught = set(self.waits_for.values())
        self.left = sorted(jobs, key=lambda job: job.name not in taught)

    def next_job(self) -> Job | None:
        """A job whose turn has come, taken off the plan; None where all that are left wait for others."""
        for place, job in enumerate(self.left):
            if job.name not in self.waits_for:
                return self.left.pop(place)
        return None

    def finish(self, name: str) -> None:
        """Lets those go that waited for the job."""
        self.waits_for = {waiting: other for waiting, other in self.waits_for.items() if other != name}
