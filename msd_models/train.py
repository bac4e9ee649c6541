"""ctr_model: every arm of the comparison, trained by one loop on the same examples, scored once on test.

Each arm and seed is three files: its checkpoint, its predictions and, last, its run. A run that is there is not done
again, so a killed training goes on at the next one.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from msd_models.arms import ARMS, CtrNetwork, build
from msd_models.ctr_inputs import SPLITS, CtrInputs, Tables, read_inputs
from msd_models.fitting import Fit, fit, score
from msd_models.semantics import Mask
from msd_models.vector_tables import SemanticVectors, read_vectors
from pipeline.config import CtrModel
from pipeline.errors import ConfigError
from pipeline.progress import Advance, note, progress
from pipeline.settings import digest, identity
from pipeline.storage import Dataset, Outcome, write_atomically, write_shard

VECTOR_DATASETS = ("item_features", "user_features", "item_text_vectors", "user_text_vectors")


def train_arms(config: CtrModel, folder: Path, **datasets: Dataset) -> Outcome:
    """Trains config.arms × config.seeds and leaves checkpoints, predictions and runs in the folder.

    Args:
        config: of the stage.
        folder: gets `checkpoints/<arm>-<seed>.safetensors`, `predictions/<arm>-<seed>.parquet` (valid and test),
            `runs/<arm>-<seed>.json`, and `fields.parquet`: what each row of the embedding table stands for.
        datasets: the inputs of the stage by name, as `pipeline.stages` lists them.

    Raises:
        ConfigError: a setting is out of its range.
        StageError: a split is empty or has one class only.
        SpaceMismatch: vectors of two spaces stand in one table.
    """
    _check(config)
    published = read_vectors(**{name: datasets[name] for name in VECTOR_DATASETS})
    tables = Tables(**{name: dataset for name, dataset in datasets.items() if name not in VECTOR_DATASETS})
    inputs = read_inputs(tables, published.item_rows, config.max_history, config.min_id_count)
    write_shard(folder / "fields.parquet", _fields_table(inputs))
    pending = [(arm, seed) for arm, seed in _runs(config) if not _run_path(folder, arm, seed).is_file()]
    total = len(pending) * config.max_epochs * len(inputs.split_rows["train"])
    with _threads(config.threads), progress("ctr_model", total) as advance:
        for arm, seed in pending:
            _train_one(arm, seed, inputs, published, config, folder, advance)
    rows = len(inputs.click_N)
    return Outcome(rows_in=rows, rows_ok=rows, details=_details(config, inputs, published))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Gives PyTorch that many threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check(config: CtrModel) -> None:
    unknown = [arm for arm in config.arms if arm not in ARMS]
    problems = [
        (bool(unknown), "arms", f"names {', '.join(unknown)}; there are {', '.join(ARMS)}"),
        (not config.arms, "arms", "is empty; name one arm at least"),
        (not config.seeds, "seeds", "is empty; name one seed at least"),
        (config.mask not in list(Mask), "mask", f"is '{config.mask}'; choose {', '.join(Mask)}"),
        (not 0 <= config.mask_min <= config.mask_max <= 1, "mask_min and mask_max", "must be shares, in this order"),
        (not 0 <= config.dropout < 1, "dropout", f"is {config.dropout}; choose 0 or more, below 1"),
        (not 0 <= config.id_dropout < 1, "id_dropout", f"is {config.id_dropout}; choose 0 or more, below 1"),
        (config.learning_rate <= 0, "learning_rate", f"is {config.learning_rate}; choose a number above 0"),
    ]
    for name in ("embedding_dim", "adaptor_dim", "max_history", "top_k", "batch_size", "max_epochs", "threads"):
        value = getattr(config, name)
        problems.append((value < 1, name, f"is {value}; choose 1 or more"))
    problems.append((any(width < 1 for width in config.hidden), "hidden", "holds a width below 1"))
    for is_wrong, name, sentence in problems:
        if is_wrong:
            raise ConfigError(f"[ctr_model] {name} {sentence}; for instance --set ctr_model.{name.split()[0]}=…")


def _runs(config: CtrModel) -> Iterator[tuple[str, int]]:
    """Seed by seed, so that a run cut short has compared all arms at least once."""
    for seed in config.seeds:
        for arm in config.arms:
            yield arm, seed


def _run_path(folder: Path, arm: str, seed: int) -> Path:
    return folder / "runs" / f"{arm}-{seed}.json"


def _train_one(
    arm: str, seed: int, inputs: CtrInputs, vectors: SemanticVectors, config: CtrModel, folder: Path, advance: Advance
) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = build(arm, seed, inputs, vectors, config).to(device)
    outcome = fit(network, inputs, config, seed, advance)
    skipped_epochs = config.max_epochs - outcome.epochs
    advance(skipped_epochs * len(inputs.split_rows["train"]))
    facts = {"arm": arm, "seed": str(seed), "space_id": vectors.items.space_id}
    _save(network, folder / "checkpoints" / f"{arm}-{seed}.safetensors", facts, config)
    predictions = folder / "predictions" / f"{arm}-{seed}.parquet"
    predictions.parent.mkdir(exist_ok=True)
    write_shard(predictions, _predictions(network, inputs))
    params = sum(parameter.numel() for parameter in network.parameters())
    run = {"arm": arm, "seed": seed, "params": params, **_rounded(outcome)}
    write_atomically(_run_path(folder, arm, seed), json.dumps(run, indent=1).encode())
    note(
        f"      {arm} seed {seed}: valid AUC {max(outcome.valid_auc):.4f} after epoch {outcome.best_epoch},"
        f" {outcome.train_seconds:.1f} s, {outcome.samples_per_second:,.0f} rows/s"
    )


def _save(network: CtrNetwork, path: Path, facts: dict[str, str], config: CtrModel) -> None:
    from safetensors.torch import save

    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
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


def _predictions(network: CtrNetwork, inputs: CtrInputs) -> pa.Table:
    parts = []
    for split in ("valid", "test"):
        rows = inputs.split_rows[split]
        chosen = pa.array(rows.numpy())
        columns: dict[str, Any] = {
            "event_id": inputs.event_id_N[rows.numpy()],
            "split": pa.array([split]).take(pa.array(np.zeros(len(rows), dtype=np.int64))),
            "user_id": inputs.user_id_N.take(chosen),
            "item_id": inputs.item_id_N.take(chosen),
            "is_click": inputs.click_N[rows].numpy().astype(np.int8),
            "score": score(network, inputs, rows),
        }
        parts.append(pa.table(columns))
    return pa.concat_tables(parts)


def _rounded(outcome: Fit) -> dict[str, Any]:
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(outcome).items()}


def _fields_table(inputs: CtrInputs) -> pa.Table:
    tables = []
    for field in inputs.fields:
        values = pa.concat_arrays([pa.nulls(1, pa.string()), field.values])
        names = pa.array([field.name]).take(pa.array(np.zeros(len(values), dtype=np.int64)))
        tables.append(pa.table({"field": names, "row": field.offset + np.arange(len(values)), "value": values}))
    return pa.concat_tables(tables)


def _details(config: CtrModel, inputs: CtrInputs, vectors: SemanticVectors) -> dict[str, Any]:
    events = {split: np.sort(inputs.event_id_N[inputs.split_rows[split].numpy()]) for split in SPLITS}
    return {
        "arms": list(config.arms),
        "seeds": list(config.seeds),
        "space_id": vectors.items.space_id,
        "split": {split: len(event_ids) for split, event_ids in events.items()},
        "split_digest": digest({split: event_ids.tolist() for split, event_ids in events.items()}),
        "fields": {field.name: field.size for field in inputs.fields},
    }
