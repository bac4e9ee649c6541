"""Runs a training here, or hands it to several processes as a folder that each of them reads.

The folder holds the settings, the training rows and the untrained model. Whoever starts the processes (torchrun here,
Spark on a cluster) only has to call `work` with the folder's path in each: the training itself is the same function.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from msd_models.distillation_batches import steps_per_epoch
from msd_models.distillation_training import Training, train
from msd_models.language_model import load_causal, quiet_transformers
from msd_models.process_group import Launch, is_first_process, launch_torchrun, tell_parent
from msd_models.student_layers import with_adapters
from pipeline.config import Student
from pipeline.progress import progress
from pipeline.storage import write_atomically, write_shard

WORKER = "msd_models.distillation_worker"


def run_training(
    model: Any,
    rows: Sequence[Mapping[str, Any]],
    config: Student,
    fill: int,
    folder: Path,
    launch: Launch | None = None,
) -> tuple[Any, Training]:
    """Trains the model, with adapters where config wants them; every epoch's weights end up in the folder.

    Args:
        model: an untrained student, not to be used afterwards.
        rows: of `training_rows`.
        config: processes among others.
        fill: token id that pads.
        folder: of unfinished work.
        launch: starts the processes; torchrun on this machine where None.

    Returns:
        The model that the weights of an epoch can be loaded into, and what training did.

    Raises:
        StageError: a process failed.
    """
    steps = steps_per_epoch(len(rows), config) * config.epochs
    with progress("student: distil", steps, "steps") as advance:
        if config.processes == 1 and launch is None:
            adapted = with_adapters(model, config)
            return adapted, train(adapted, rows, config, fill, folder, advance)
        job = folder / "job"
        _write_job(job, model, rows, config, fill)
        (launch or partial(launch_torchrun, WORKER, "student"))(job, config.processes, advance)
    training = Training(**json.loads((job / "training.json").read_text(encoding="utf-8")))
    return with_adapters(model, config), training


def work(job: str) -> None:
    """One process's share of the training in the job folder; the first process leaves what came of it there."""
    folder = Path(job)
    settings = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    config = Student(**settings["config"] | {"curve": tuple(settings["config"]["curve"])})
    if config.threads:
        torch.set_num_threads(config.threads)
    model = load_causal(folder / "model", torch.float32)
    for name, weight in model.named_parameters():
        weight.requires_grad_(name not in settings["frozen"])
    rows = pq.read_table(folder / "rows.parquet").to_pylist()
    training = train(with_adapters(model, config), rows, config, settings["fill"], folder.parent, tell_parent)
    if is_first_process():
        write_atomically(folder / "training.json", json.dumps(asdict(training)).encode())


def _write_job(job: Path, model: Any, rows: Sequence[Mapping[str, Any]], config: Student, fill: int) -> None:
    """The plain model goes into the folder: each process adds the adapters itself, from the same seed."""
    job.mkdir(parents=True, exist_ok=True)
    frozen = [name for name, weight in model.named_parameters() if not weight.requires_grad]
    with quiet_transformers():
        model.save_pretrained(job / "model")
    columns = ("input_ids", "labels", "length")
    write_shard(job / "rows.parquet", pa.table({name: [row[name] for row in rows] for name in columns}))
    settings = {"config": asdict(config), "frozen": frozen, "fill": fill}
    write_atomically(job / "job.json", json.dumps(settings).encode())
