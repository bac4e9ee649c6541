"""ctr_model: every arm of the comparison, trained by one loop on the same records, scored once on test.

Each arm and seed is three files: its checkpoint, its predictions and, last, its run. A run that is there is not done
again, so a killed training goes on at the next one, and inside one at its last checkpoint.
"""

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from msd_models.arms import Arm, settings_of
from msd_models.arms_file import compared_arms, read_arms
from msd_models.ctr_inputs import CtrInputs
from msd_models.ctr_job import Job, outcome_line, train_one, write_job
from msd_models.ctr_lanes import Share, lanes_for, train_in_lanes
from msd_models.ctr_records import open_inputs
from msd_models.ctr_settings import check_settings
from msd_models.language_model import cpu_threads
from msd_models.process_group import Launch, launch_torchrun
from msd_models.record_files import Records
from msd_models.vector_alignment import align_vectors, open_vectors
from msd_models.vector_tables import SemanticVectors
from pipeline.config import CtrModel
from pipeline.progress import note, progress
from pipeline.storage import Dataset, Outcome

ROWS = pa.schema(
    [
        ("event_id", pa.int64()),
        ("split", pa.string()),
        ("category", pa.string()),
        ("item_exposures", pa.int64()),
        ("history_length", pa.int32()),
        ("has_item_vector", pa.bool_()),
        ("has_user_vector", pa.bool_()),
    ]
)
"""What `rows.parquet` says of each valid and test example, for slices of the report."""
WORKER = "msd_models.ctr_worker"
ROWS_AT_ONCE = 131_072


def train_arms(
    config: CtrModel, folder: Path, ctr_records: Dataset, launch: Launch | None = None, **datasets: Dataset
) -> Outcome:
    """Trains config.arms × config.seeds and leaves checkpoints, predictions and runs in the folder.

    Args:
        config: of the stage.
        folder: gets `checkpoints/<arm>-<seed>.safetensors`, `predictions/<arm>-<seed>.parquet` (valid and test),
            `runs/<arm>-<seed>.json`, `rows.parquet`, and `exports/` of networks that were distilled.
        ctr_records: the examples.
        launch: starts several processes; torchrun on this machine where None.
        datasets: the other inputs of the stage by name, as `pipeline.stages` lists them.

    Raises:
        ConfigError: a setting is out of its range.
        SpaceMismatch: vectors of two spaces stand where one is wanted.
        StageError: a process failed.
    """
    arms = read_arms(config.arms_file)
    wanted = _ordered(config, arms)
    inputs = open_inputs(ctr_records.folder)
    align_vectors(folder / "vectors", datasets, {arm.vectors for arm in wanted if arm.vectors is not None})
    vectors = open_vectors(folder / "vectors")
    _write_rows(folder / "rows.parquet", inputs)
    places = {"records": ctr_records.folder, "vectors": folder / "vectors", "folder": folder}
    jobs = [Job(arm=arm.name, seed=seed, config=config, **places) for seed in config.seeds for arm in wanted]
    _train_jobs([job for job in jobs if not job.run_path.is_file()], arms, inputs, vectors, launch)
    for scratch in ("vectors", "unfinished", "jobs"):
        shutil.rmtree(folder / scratch, ignore_errors=True)
    rows = sum(len(file) for file in inputs.records.values())
    return Outcome(rows_in=rows, rows_ok=rows, details=_details(config, wanted, ctr_records, vectors))


def _ordered(config: CtrModel, arms: Mapping[str, Arm]) -> list[Arm]:
    """The arms to train, each after the one it learns from.

    Raises:
        ConfigError: an unknown arm, or a setting out of its range.
    """
    check_settings("", config)
    ordered = compared_arms(config, arms)
    for arm in ordered:
        check_settings(arm.name, settings_of(arm, config))
    return ordered


def _train_jobs(
    pending: list[Job], arms: Mapping[str, Arm], inputs: CtrInputs, vectors: SemanticVectors, launch: Launch | None
) -> None:
    rows = {job.name: _most_rows(arms[job.arm], job.config, inputs) for job in pending}
    with progress("ctr_model", sum(rows.values())) as advance:
        shares = {job.name: Share(advance, rows[job.name]) for job in pending}
        lanes = 1 if launch else _num_lanes(pending, sum(rows.values()))
        if lanes > 1:
            train_in_lanes(pending, arms, lanes, shares)
            return
        for job in pending:
            if job.config.processes == 1 and launch is None:
                with cpu_threads(job.config.threads):
                    note(outcome_line(job, train_one(job, inputs, vectors, shares[job.name])))
            else:
                folder = job.folder / "jobs" / job.name
                write_job(job, folder)
                (launch or partial(launch_torchrun, WORKER, "ctr_model"))(
                    folder, job.config.processes, shares[job.name]
                )
            shares[job.name].finish()


def _most_rows(arm: Arm, config: CtrModel, inputs: CtrInputs) -> float:
    """Rows a training reads where it does not stop early."""
    return settings_of(arm, config).max_epochs * inputs.num_rows("train")


def _num_lanes(pending: list[Job], rows: float) -> int:
    """Trainings at once: one where each has a GPU, or several processes, of its own."""
    if not pending or pending[0].config.processes > 1 or torch.cuda.is_available():
        return 1
    return lanes_for(pending[0].config.side_by_side, len(pending), rows)


def _write_rows(path: Path, inputs: CtrInputs) -> None:
    items = pq.read_table(inputs.folder / "items.parquet", columns=["category", "exposures"]).combine_chunks()
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".writing")
    with pq.ParquetWriter(aside, ROWS) as writer:
        for split in ("valid", "test"):
            for records in inputs.records[split].batches(ROWS_AT_ONCE):
                writer.write_table(_rows(split, records, items))
    aside.replace(path)


def _rows(split: str, records: Records, items: pa.Table) -> pa.Table:
    item_N = pa.array(records["item"] - 1)
    columns: dict[str, Any] = {
        "event_id": records["event_id"],
        "split": [split] * len(records),
        "category": items.column("category").take(item_N),
        "item_exposures": items.column("exposures").take(item_N),
        "history_length": (records["history"] > 0).sum(axis=1).astype(np.int32),
        "has_item_vector": records["item_row"] > 0,
        "has_user_vector": records["user_row"] > 0,
    }
    return pa.table(columns, schema=ROWS)


def _details(config: CtrModel, wanted: list[Arm], records: Dataset, vectors: SemanticVectors) -> dict[str, Any]:
    told = records.details
    return {
        "arms": [arm.name for arm in wanted],
        "seeds": list(config.seeds),
        "space_id": vectors.space_id,
        "spaces": {str(source): tables.items.space_id for source, tables in vectors.tables.items()},
        "split": told["split"],
        "split_digest": told["split_digest"],
        "fields": told["fields"],
    }
