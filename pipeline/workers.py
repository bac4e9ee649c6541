"""The missing shards of a row-wise stage made by worker processes side by side, each a share of them.

A worker is a fresh interpreter (nothing of a model is inherited), gets a run of shards that lie next to each other, its
part of the processor's threads and one of the GPUs there are. It writes its shards itself and only their numbers come
back. It ends with its parent, however that ends; a worker that dies ends the stage, whose shards stay.
"""

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from pipeline.errors import MsdError, StageError
from pipeline.job import Job
from pipeline.log_lines import carried, carry_on, is_json, write_failure

STOP_SECONDS = 10.0
Make = Callable[[Job, Sequence[int]], Iterator[int]]
"""Makes the shards of these numbers in this process; yields each number once its shard is on disk."""


@dataclass(frozen=True, kw_only=True)
class _Worker:
    """One process, and the end of the pipe it tells of its shards through."""

    process: SpawnProcess
    inbox: Connection


def make_in_processes(make: Make, job: Job, missing: Sequence[int], processes: int) -> Iterator[int]:
    """Makes the shards in so many processes; yields the number of each once it is on disk.

    Args:
        make: what a worker runs on its share; a function of a module.
        job: whose shards.
        missing: numbers of the shards that are not on disk, in order.
        processes: at most as many as there are shards.

    Raises:
        StageError: a worker died.
        MsdError: what the maker raised in a worker.
    """
    workers: list[_Worker] = []
    made = 0
    try:
        for number, share in enumerate(_shares(missing, processes)):
            work = partial(_work, make, job, share, carried())
            name = f"{job.stage.name} worker {number + 1} of {processes}"
            workers.append(_started(work, name, _resources(number, processes)))
        listening = {worker.inbox: worker for worker in workers}
        while listening:
            for ready in wait(list(listening)):
                worker = listening[ready]  # type: ignore[index]
                said = _heard(worker)
                if said is None:
                    _check_end(job, worker, made, len(missing))
                    del listening[worker.inbox]
                elif isinstance(said, Exception):
                    raise said
                else:
                    made += 1
                    yield said
    finally:
        for worker in workers:
            _stop(worker)


def _shares(missing: Sequence[int], processes: int) -> Iterator[Sequence[int]]:
    """Contiguous parts, as equal as can be."""
    for number in range(processes):
        yield missing[len(missing) * number // processes : len(missing) * (number + 1) // processes]


def _started(work: Callable[[Connection], None], name: str, variables: Mapping[str, str]) -> _Worker:
    inbox, outbox = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=work, args=(outbox,), name=name)
    with _environment(variables):
        process.start()
    outbox.close()
    return _Worker(process=process, inbox=inbox)


def _resources(number: int, processes: int) -> dict[str, str]:
    """What a library that counts threads and GPUs when it is loaded is to find."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = int(os.environ.get("OMP_NUM_THREADS") or cores)
    variables = {"OMP_NUM_THREADS": str(max(threads // processes, 1))}
    gpus = _gpus()
    return variables | {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else variables


def _gpus() -> list[str]:
    """Names of the GPUs this process may use, as CUDA_VISIBLE_DEVICES has them."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name]
    known = Path("/proc/driver/nvidia/gpus")
    return [str(number) for number, _ in enumerate(known.iterdir())] if known.is_dir() else []


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """A new interpreter reads them before it imports anything, which is too early for it to set them itself."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _work(make: Make, job: Job, share: Sequence[int], run: Mapping[str, Any], outbox: Connection) -> None:
    """What a worker runs."""
    carry_on(run, worker=multiprocessing.current_process().name)
    # Ctrl-C reaches every process of the terminal: the parent answers it for all.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        for number in make(job, share):
            outbox.send(number)
    except MsdError as error:
        outbox.send(error)
    except Exception as error:
        if is_json():
            write_failure(f"unexpected {type(error).__name__}: {error}", error, exit_code=1, with_traceback=True)
        else:
            traceback.print_exc()
        sys.exit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _heard(worker: _Worker) -> Any:
    """A shard's number, an exception, or None where the worker has nothing more to say."""
    try:
        return worker.inbox.recv()
    except EOFError:
        return None


def _check_end(job: Job, worker: _Worker, made: int, wanted: int) -> None:
    worker.process.join()
    code = worker.process.exitcode
    if not code:
        return
    killed = f"was killed by signal {-code}" + (", as a machine out of memory does" if code == -signal.SIGKILL else "")
    raise StageError(
        f"{worker.process.name} {killed if code < 0 else f'ended with exit code {code}'}; {made} of {wanted} shards"
        f" were made and stay: the same command goes on there; --set {job.stage.name}.processes=1 needs least memory"
    )


def _stop(worker: _Worker) -> None:
    """Ends a worker that is still at it; one that has ended is only waited for."""
    if worker.process.is_alive():
        worker.process.terminate()
        worker.process.join(STOP_SECONDS)
    if worker.process.is_alive():
        worker.process.kill()
    worker.process.join()
    worker.process.close()
    worker.inbox.close()
