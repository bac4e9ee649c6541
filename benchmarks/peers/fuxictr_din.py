"""FuxiCTR's DIN on the arrays of din_throughput.py, in its own environment; one JSON line of rates and AUC.

`python fuxictr_din.py ARRAYS.npz SETTINGS.json`. Its model, its training step and its optimiser are used as they come;
it gets batches cut from arrays that lie in memory, which is faster than any of its loaders.
"""

import json
import sys
import tempfile
import time
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.torch_utils import seed_everything
from model_zoo.LongCTR.DIN import DIN


class Batches:
    """What DIN reads: fields of the example, items (history, then target) and the mask of the history."""

    def __init__(self, arrays: dict[str, np.ndarray], split: str, rows: int, *, shuffle: bool) -> None:
        self.arrays = {name: torch.from_numpy(arrays[f"{split}/{name}"]).long() for name in FIELDS}
        self.sequences = {name: torch.from_numpy(arrays[f"{split}/history/{name}"]).long() for name in ITEM_FIELDS}
        self.clicks = torch.from_numpy(arrays[f"{split}/click"]).float()
        self.rows, self.shuffle = rows, shuffle
        self.waited = 0.0

    def __len__(self) -> int:
        return -(-len(self.clicks) // self.rows)

    def __iter__(self):  # noqa: ANN204
        order = torch.randperm(len(self.clicks)) if self.shuffle else torch.arange(len(self.clicks))
        for part in torch.split(order, self.rows):
            started = time.perf_counter()
            fields = {name: self.arrays[name][part] for name in FIELDS if name not in ITEM_FIELDS}
            fields["click"] = self.clicks[part]
            history = {name: self.sequences[name][part] for name in ITEM_FIELDS}
            items = {
                name: torch.cat([history[name], self.arrays[name][part].unsqueeze(1)], dim=1).flatten()
                for name in ITEM_FIELDS
            }
            batch = (fields, items, (history[ITEM_FIELDS[0]] > 0).float())
            self.waited += time.perf_counter() - started
            yield batch


def main() -> None:
    """Trains for the wanted epochs and prints what was seen."""
    global FIELDS, ITEM_FIELDS
    settings = json.loads(Path(sys.argv[2]).read_text())
    arrays = dict(np.load(sys.argv[1]))
    FIELDS, ITEM_FIELDS = settings["fields"], settings["item_fields"]
    torch.set_num_threads(settings["threads"])
    seed_everything(settings["seed"])
    with tempfile.TemporaryDirectory() as folder:
        model = _model(settings, folder)
        train = Batches(arrays, "train", settings["batch_size"], shuffle=True)
        model._max_gradient_norm, model._batch_index = 10.0, 0
        seconds = []
        for _ in range(settings["epochs"]):
            model.train()
            started = time.perf_counter()
            for batch in train:
                model.train_step(batch)
            seconds.append(time.perf_counter() - started)
        test = Batches(arrays, "test", 8192, shuffle=False)
        told = model.evaluate(test, metrics=["AUC"])
    rows = len(train.clicks)
    print(
        json.dumps(
            {"rates": [rows / one for one in seconds], "auc": told["AUC"], "waited": train.waited / sum(seconds)}
        )
    )


def _model(settings: dict, folder: str) -> DIN:
    features = FeatureMap("bench", folder)
    features.features = OrderedDict(
        (
            name,
            {
                "type": "categorical",
                "vocab_size": settings["sizes"][name],
                "source": "item" if name in ITEM_FIELDS else "",
            },
        )
        for name in FIELDS
    )
    features.labels = ["click"]
    features.num_fields = len(FIELDS)
    features.default_emb_dim = settings["embedding_dim"]
    return DIN(
        features,
        gpu=-1,
        dnn_hidden_units=settings["hidden"],
        dnn_activations="Dice",
        attention_hidden_units=[settings["attention"]],
        attention_hidden_activations="Dice",
        learning_rate=settings["learning_rate"],
        embedding_dim=settings["embedding_dim"],
        net_dropout=settings["dropout"],
        optimizer="adam",
        loss="binary_crossentropy",
        metrics=["AUC"],
        model_root=folder,
        verbose=0,
        accumulation_steps=1,
    )


if __name__ == "__main__":
    FIELDS: list[str] = []
    ITEM_FIELDS: list[str] = []
    main()
