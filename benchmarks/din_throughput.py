"""Training throughput of DIN beside FuxiCTR 2.3's, on the same examples, widths, batch and optimiser.

FuxiCTR lives in an environment of its own, made on first use below the cache folder. It trains on arrays in memory;
ours streams records from disk, as it does in production. Processes alternate, a rate is that of an epoch, and the ratio
is of their medians; the AUC of both is on the same test rows, one figure a seed.

`python benchmarks/din_throughput.py [ROWS] [SEEDS]` (default 400,000 and 3; about ten minutes on two cores)
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from click_log import make_log, make_records

from msd_models.arms_file import read_arms
from msd_models.ctr_inputs import SPLITS
from msd_models.ctr_records import open_inputs
from msd_models.fitting import fit, score
from msd_models.metrics import auc
from msd_models.networks import build
from pipeline.assets import cache_folder
from pipeline.config import CtrModel

WANTED = 2.0
MAX_WAIT = 0.05
FUXICTR = "fuxictr==2.3.10"
CONFIG = CtrModel(
    hidden=(200, 80), batch_size=4096, learning_rate=2e-3, max_epochs=2, weight_decay=0.0, history_marks=False
)


def main() -> None:
    """Alternates the two and prints samples a second, the ratio, both AUCs and the share of waiting."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 400_000
    seeds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    python = _peer_python()
    with tempfile.TemporaryDirectory(prefix="msd-din-") as name:
        folder = Path(name)
        make_log(folder, rows)
        records = make_records(folder)
        _write_arrays(records, folder)
        told: dict[str, list[dict[str, Any]]] = {"ours": [], "fuxictr": []}
        for seed in range(1, seeds + 1):
            for kind in ("fuxictr", "ours") if seed % 2 else ("ours", "fuxictr"):
                facts = ours(records, seed) if kind == "ours" else _peer(python, folder, seed)
                told[kind].append(facts)
                rates = ", ".join(f"{rate:,.0f}" for rate in facts["rates"])
                print(
                    f"{kind:8s} seed {seed}: {rates} rows/s, test AUC {facts['auc']:.4f}, waits {facts['waited']:.1%}"
                )
    _judge(told)


def ours(records: Path, seed: int) -> dict[str, Any]:
    """One training of the arm din, one epoch a rate."""
    torch.set_num_threads(CONFIG.threads)
    inputs = open_inputs(records)
    arms = read_arms()
    network = build(arms["din"], arms, seed, inputs, None, CONFIG)
    epochs: list[float] = []
    done = [0.0, time.perf_counter()]

    def advance(amount: float = 1) -> None:
        done[0] += amount
        if done[0] >= inputs.num_rows("train"):
            epochs.append(done[0] / (time.perf_counter() - done[1]))
            done[:] = [0.0, time.perf_counter()]

    def after_epoch(_: int, __: float) -> None:
        done[1] = time.perf_counter()

    outcome = fit(network, inputs, CONFIG, seed, advance, after_epoch=after_epoch)
    test = inputs.records["test"]
    labels = np.concatenate([part["click"] for part in test.batches(8192)]).astype(np.int8)
    value = auc(labels, score(network, inputs, test.batches(8192)))
    return {"rates": epochs, "auc": value, "waited": outcome.wait_share}


def _judge(told: dict[str, list[dict[str, Any]]]) -> None:
    rates = {kind: statistics.median(rate for facts in runs for rate in facts["rates"]) for kind, runs in told.items()}
    aucs = {kind: [facts["auc"] for facts in runs] for kind, runs in told.items()}
    ratio = rates["ours"] / rates["fuxictr"]
    print(
        f"ours {rates['ours']:,.0f} rows/s, FuxiCTR {rates['fuxictr']:,.0f}: {ratio:.2f} x (wanted {WANTED})"
        f": {'kept' if ratio >= WANTED else 'MISSED'}"
    )
    for kind, values in aucs.items():
        print(f"{kind:8s} test AUC {statistics.mean(values):.4f}, seeds {min(values):.4f} to {max(values):.4f}")
    waited = statistics.median(facts["waited"] for facts in told["ours"])
    print(f"waiting for data: {waited:.1%} (at most {MAX_WAIT:.0%}): {'kept' if waited <= MAX_WAIT else 'MISSED'}")


def _write_arrays(records: Path, folder: Path) -> None:
    """The same examples as FuxiCTR wants them: every field numbered from 0, padding 0."""
    inputs = open_inputs(records)
    items = inputs.catalogue_codes_C2.numpy()
    arrays: dict[str, np.ndarray] = {}
    # A module of PyTorch takes no name with a dot in it.
    names = [field.name.replace(".", "_") for field in inputs.fields]
    offsets = {name: field.offset for name, field in zip(names, inputs.fields, strict=True)}
    # An item's unknown row is 0 as padding is: one more row for it.
    moved = {name: 1 if name in ("item_id", "category") else 0 for name in names}
    for split in SPLITS:
        whole = inputs.records[split].read(0, inputs.num_rows(split))
        for position, name in enumerate(names):
            arrays[f"{split}/{name}"] = whole["codes"][:, position] - offsets[name] + moved[name]
        for position, name in enumerate(("item_id", "category")):
            history = items[whole["history"], position] - offsets[name] + 1
            arrays[f"{split}/history/{name}"] = np.where(whole["history"] > 0, history, 0)
        arrays[f"{split}/click"] = whole["click"]
    np.savez(folder / "arrays.npz", **arrays)
    settings = {
        "fields": names,
        "item_fields": ["item_id", "category"],
        "sizes": {name: field.size + moved[name] for name, field in zip(names, inputs.fields, strict=True)},
        "embedding_dim": CONFIG.embedding_dim,
        "hidden": CONFIG.hidden,
        "attention": 32,
        "dropout": CONFIG.dropout,
        "learning_rate": CONFIG.learning_rate,
        "batch_size": CONFIG.batch_size,
        "epochs": CONFIG.max_epochs,
        "threads": CONFIG.threads,
    }
    (folder / "settings.json").write_text(json.dumps(settings))


def _peer(python: Path, folder: Path, seed: int) -> dict[str, Any]:
    settings = json.loads((folder / "settings.json").read_text()) | {"seed": seed}
    (folder / "run.json").write_text(json.dumps(settings))
    script = Path(__file__).parent / "peers" / "fuxictr_din.py"
    command = [str(python), str(script), str(folder / "arrays.npz"), str(folder / "run.json")]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    if told.returncode:
        raise SystemExit(told.stderr[-2000:])
    facts: dict[str, Any] = json.loads(told.stdout.strip().splitlines()[-1])
    return facts


def _peer_python() -> Path:
    home = cache_folder() / FUXICTR.replace("==", "-")
    python = home / "bin" / "python"
    if not (home / ".ready").is_file():
        print(f"making {FUXICTR}'s environment")
        venv.create(home, with_pip=True, clear=True)
        packages = [FUXICTR, f"torch=={torch.__version__}"]
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
        (home / ".ready").touch()
    return python


if __name__ == "__main__":
    main()
