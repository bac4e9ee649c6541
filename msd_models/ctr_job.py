"""One arm and seed: built, trained, scored on valid and test, saved; in this process or in several of one group.

A job is a JSON file that names the records, the aligned vectors and the settings, so that any process that sees the
work folder can take its share of it.
"""

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from msd_models.arms import Arm, settings_of
from msd_models.arms_file import read_arms
from msd_models.ctr_inputs import CtrInputs
from msd_models.ctr_network import CtrNetwork
from msd_models.ctr_records import open_inputs
from msd_models.elec import TaughtNetwork
from msd_models.fitting import ALONE, SCORING_ROWS, Fit, Group, fit, score
from msd_models.networks import build
from msd_models.process_group import is_first_process, tell_parent
from msd_models.vanilla_export import export_vanilla
from msd_models.vector_alignment import open_vectors
from msd_models.vector_tables import SemanticVectors
from pipeline.config import CtrModel
from pipeline.progress import Advance, note
from pipeline.settings import identity
from pipeline.storage import write_atomically

PREDICTION = pa.schema(
    [
        ("event_id", pa.int64()),
        ("split", pa.string()),
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("is_click", pa.int8()),
        ("score", pa.float32()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training."""

    arm: str
    seed: int
    records: Path
    """Folder of ctr_records."""
    vectors: Path
    """Folder of aligned vectors."""
    folder: Path
    """Of ctr_model: gets checkpoints, predictions and runs."""
    config: CtrModel

    @property
    def name(self) -> str:
        """As files of the run are called."""
        return f"{self.arm}-{self.seed}"

    @property
    def run_path(self) -> Path:
        """Written last: a training whose run is there is done."""
        return self.folder / "runs" / f"{self.name}.json"

    @property
    def weights_path(self) -> Path:
        """The best epoch's weights."""
        return weights_path(self.folder, self.arm, self.seed)


def weights_path(folder: Path, arm: str, seed: int) -> Path:
    """Where a training leaves its network."""
    return folder / "checkpoints" / f"{arm}-{seed}.safetensors"


def write_job(job: Job, folder: Path) -> None:
    """Writes job.json for `work`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: str(getattr(job, name)) for name in ("records", "vectors", "folder")}
    told = {"arm": job.arm, "seed": job.seed, **paths, "config": asdict(job.config)}
    write_atomically(folder / "job.json", json.dumps(told).encode())


def read_job(folder: Path) -> Job:
    """What write_job wrote into the folder."""
    told = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    paths = {name: Path(told[name]) for name in ("records", "vectors", "folder")}
    return Job(arm=told["arm"], seed=told["seed"], config=_config(told["config"]), **paths)


def work(folder: str) -> None:
    """One process's share of the training whose job.json lies in the folder."""
    import torch.distributed as dist

    job = read_job(Path(folder))
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    torch.set_num_threads(job.config.threads)
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        group = Group(rank=dist.get_rank(), size=dist.get_world_size())
        outcome = train_one(job, open_inputs(job.records), open_vectors(job.vectors), tell_parent, group)
        if is_first_process():
            note(outcome_line(job, outcome))
    finally:
        dist.destroy_process_group()


def train_one(job: Job, inputs: CtrInputs, vectors: SemanticVectors, advance: Advance, group: Group = ALONE) -> Fit:
    """Trains and leaves checkpoint, predictions and, last, the run; the first process of a group writes."""
    arms = read_arms(job.config.arms_file)
    arm = arms[job.arm]
    config = settings_of(arm, job.config)
    network = untrained(job, arm, arms, inputs, vectors)
    unfinished = job.folder / "unfinished" / f"{job.name}.safetensors"
    outcome = fit(network, inputs, config, job.seed, advance, checkpoint=unfinished, group=group)
    if is_first_process():
        _leave(job, arm, config, network, inputs, vectors, outcome)
        unfinished.unlink(missing_ok=True)
    return outcome


def outcome_line(job: Job, outcome: Fit) -> str:
    """How a training went, for the person watching."""
    return (
        f"      {job.arm} seed {job.seed}: valid AUC {max(outcome.valid_auc):.4f} after epoch {outcome.best_epoch},"
        f" {outcome.train_seconds:.1f} s, {outcome.samples_per_second:,.0f} rows/s"
    )


def untrained(job: Job, arm: Arm, arms: dict[str, Arm], inputs: CtrInputs, vectors: SemanticVectors) -> CtrNetwork:
    """The arm's network on its device; one that learns from a finished arm has that arm's weights beside."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = build(arm, arms, job.seed, inputs, vectors, job.config)
    if isinstance(network, TaughtNetwork) and network.needs_gain:
        network.load_gain(load_weights(weights_path(job.folder, arm.learns_from, job.seed)))
    return network.to(device)


def load_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint."""
    from safetensors.torch import load_file

    weights: dict[str, Tensor] = load_file(path)
    return weights


def _config(told: dict[str, Any]) -> CtrModel:
    """Settings that went through JSON, which has lists for tuples."""
    defaults = {one.name: one.default for one in fields(CtrModel)}
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(defaults[name], tuple) else value for name, value in told.items()
    }
    return CtrModel(**settings)


def _leave(
    job: Job,
    arm: Arm,
    config: CtrModel,
    network: CtrNetwork,
    inputs: CtrInputs,
    vectors: SemanticVectors,
    outcome: Fit,
) -> None:
    space_id = "" if arm.vectors is None else vectors.space_of(arm.vectors)
    _save(network, job.weights_path, {"arm": arm.name, "seed": str(job.seed), "space_id": space_id}, config)
    if arm.learns_from:
        export_vanilla(network, inputs, job.folder / "exports" / f"{job.name}.pt2")
    _write_predictions(job.folder / "predictions" / f"{job.name}.parquet", network, inputs)
    run = {
        "arm": arm.name,
        "seed": job.seed,
        "backbone": str(arm.backbone),
        "module": str(arm.module),
        "vectors": str(arm.vectors) if arm.vectors is not None else None,
        "learns_from": arm.learns_from,
        "space_id": space_id,
        "settings": dict(arm.settings),
        "params": sum(tensor.numel() for tensor in network.served_state().values()),
        **{name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(outcome).items()},
    }
    write_atomically(job.run_path, json.dumps(run, indent=1).encode())


def _save(network: CtrNetwork, path: Path, facts: dict[str, str], config: CtrModel) -> None:
    from safetensors.torch import save

    # Cloned: tables that several parts of a network read are one tensor, which safetensors refuses to write twice.
    weights = {name: tensor.cpu().contiguous().clone() for name, tensor in network.served_state().items()}
    content = save(weights, {**facts, "settings": json.dumps(identity(config))})
    write_atomically(path, _in_one_order(content))


def _in_one_order(content: bytes) -> bytes:
    """The same safetensors file with its metadata sorted: the library writes it in an order that differs by process."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def _write_predictions(path: Path, network: CtrNetwork, inputs: CtrInputs) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".writing")
    users = pq.read_table(inputs.folder / "users.parquet").column("user_id").combine_chunks()
    items = pq.read_table(inputs.folder / "items.parquet").column("item_id").combine_chunks()
    with pq.ParquetWriter(aside, PREDICTION) as writer:
        for split in ("valid", "test"):
            for records in inputs.records[split].batches(16 * SCORING_ROWS):
                parts = (records[first : first + SCORING_ROWS] for first in range(0, len(records), SCORING_ROWS))
                columns = {
                    "event_id": records["event_id"],
                    "split": [split] * len(records),
                    "user_id": users.take(pa.array(records["user"] - 1)),
                    "item_id": items.take(pa.array(records["item"] - 1)),
                    "is_click": records["click"].astype(np.int8),
                    "score": score(network, inputs, parts),
                }
                writer.write_table(pa.table(columns, schema=PREDICTION))
    aside.replace(path)
