"""Training the adapters by the click label: twice the same steps, once with the student's vectors as they are.

Both trainings start from the same network and see the same labels, so that what tuning adds is a difference of two
valid AUCs at the same step. A step is a function of the seed and its number alone, and all state is in the checkpoint:
a killed run goes on to the same result.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from msd_models.ctr_inputs import Batch, CtrInputs
from msd_models.metrics import auc
from msd_models.tuning_head import TuningHead
from msd_models.tuning_texts import KINDS, Drawn, LiveBatch, Texts, live_batch
from pipeline.config import TunedStudent
from pipeline.progress import Advance
from pipeline.storage import write_atomically

# U distinct texts, B labels, D dimensions

MARKS = 6
"""Times the valid labels are scored on the way, evenly spaced."""
WARM_UP_SHARE = 0.1
MAX_NORM = 1.0
"""Of the adapters' gradient: a single step of hard labels must not throw the vectors out of what the network reads."""
SCORING_ROWS = 4096
STEP_SEEDS = 1_000_003


class Vectors(Protocol):
    """Where a training's vectors come from: the student as it is, or live through its adapters."""

    def encode(self, texts_U: Tensor) -> Tensor:
        """vectors_UD without a graph."""

    def backward(self, texts_U: Tensor, loss_of: Callable[[Tensor], Tensor]) -> Tensor:
        """The loss of vectors_UD; its gradients are added up behind it."""


class FixedVectors:
    """The student's vectors, computed once."""

    def __init__(self, vectors_UD: Tensor) -> None:
        """Of every text."""
        self.vectors_UD = vectors_UD

    def encode(self, texts_U: Tensor) -> Tensor:
        """vectors_UD."""
        return self.vectors_UD[texts_U]

    def backward(self, texts_U: Tensor, loss_of: Callable[[Tensor], Tensor]) -> Tensor:
        """The loss; only what reads the vectors gets gradients."""
        loss = loss_of(self.vectors_UD[texts_U])
        torch.autograd.backward(loss)
        return loss.detach()


@dataclass(frozen=True, kw_only=True)
class World:
    """What both trainings read."""

    inputs: CtrInputs
    drawn: Drawn
    texts: Texts
    config: TunedStudent


@dataclass
class Course:
    """How a training went."""

    losses: list[float] = field(default_factory=list)
    """Training loss of each step."""
    valid_auc: dict[int, float] = field(default_factory=dict)
    """After so many steps."""
    best: dict[str, Tensor] = field(default_factory=dict)
    """Adapters of the mark with the best valid AUC."""

    @property
    def best_step(self) -> int:
        """The first mark with the best valid AUC."""
        return max(self.valid_auc, key=lambda step: (self.valid_auc[step], -step))


class Training:
    """One training: the network on top, the adapters if there are any, and the optimiser."""

    def __init__(
        self,
        world: World,
        head: TuningHead,
        vectors: Vectors,
        adapters: dict[str, nn.Parameter],
        advance: Advance,
    ) -> None:
        """Starts at step 0; adapters are empty where the vectors stay as they are."""
        config = world.config
        self.world = world
        self.head = head
        self.vectors = vectors
        self.adapters = adapters
        self.advance = advance
        self.device = next(head.parameters()).device
        groups = [{"params": list(head.parameters()), "peak": config.head_learning_rate}]
        if adapters:
            groups.append({"params": list(adapters.values()), "peak": config.learning_rate})
        self.optimiser = torch.optim.AdamW(groups, lr=0.0, weight_decay=0.0)
        self.course = Course()

    def run(self, checkpoint: Path | None = None) -> Course:
        """Trains to the last step and leaves the adapters of the best mark in place.

        Args:
            checkpoint: file to keep the state in, and to go on from where it is there; None keeps none.
        """
        steps = self.world.config.max_steps
        if checkpoint is not None and checkpoint.is_file():
            self._restore(checkpoint)
        self.advance(len(self.course.losses))
        valid = live_batch(self.world.inputs, self.world.drawn.valid, self.world.config.history_items, self.world.texts)
        while len(self.course.losses) < steps:
            self._step(len(self.course.losses))
            done = len(self.course.losses)
            if done in marks(steps):
                self._mark(done, valid)
            if checkpoint is not None and done % self.world.config.checkpoint_steps == 0:
                self._save(checkpoint)
            self.advance(1)
        with torch.no_grad():
            for name, weight in self.course.best.items():
                self.adapters[name].copy_(weight)
        return self.course

    def _step(self, step: int) -> None:
        config = self.world.config
        records_B = self.world.drawn.train[step * config.batch_size : (step + 1) * config.batch_size]
        live = live_batch(self.world.inputs, records_B, config.history_items, self.world.texts)
        texts_U, places = distinct_texts(live)
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * rate(step, config.max_steps)
        self.head.train()
        self.optimiser.zero_grad()
        batch = live.batch.to(self.device)

        def loss_of(vectors_UD: Tensor) -> Tensor:
            self.head.show({kind: vectors_UD[place_R] for kind, place_R in places.items()})
            return self.head.loss(batch)

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed * STEP_SEEDS + step)
            loss = self.vectors.backward(texts_U, loss_of)
        torch.nn.utils.clip_grad_norm_(self.adapters.values(), MAX_NORM)
        self.optimiser.step()
        self.course.losses.append(float(loss))

    def _mark(self, done: int, valid: LiveBatch) -> None:
        texts_U, places = distinct_texts(valid)
        vectors_UD = self.vectors.encode(texts_U)
        self.head.show({kind: vectors_UD[place_R] for kind, place_R in places.items()})
        self.head.eval()
        with torch.no_grad():
            logits = [self.head(part.to(self.device)).cpu() for part in _parts(valid.batch)]
        clicks = valid.batch.click_B.numpy().astype(np.int8)
        self.course.valid_auc[done] = auc(clicks, torch.cat(logits).double().numpy())
        if self.course.best_step == done:
            self.course.best = {name: weight.detach().clone() for name, weight in self.adapters.items()}

    def _save(self, path: Path) -> None:
        from safetensors.torch import save

        states = self.optimiser.state_dict()["state"]
        tensors = {f"head.{name}": value for name, value in self.head.state_dict().items()}
        tensors |= {f"adapters.{name}": weight.detach() for name, weight in self.adapters.items()}
        tensors |= {f"best.{name}": weight for name, weight in self.course.best.items()}
        for number, own in states.items():
            tensors |= {f"optimiser.{number}.{name}": value for name, value in own.items()}
        facts = {"losses": self.course.losses, "valid_auc": self.course.valid_auc}
        whole = {name: value.contiguous() for name, value in tensors.items()}
        write_atomically(path, save(whole, {"course": json.dumps(facts)}))

    def _restore(self, path: Path) -> None:
        from safetensors import safe_open

        parts: dict[str, dict[str, Tensor]] = {"head": {}, "adapters": {}, "best": {}, "optimiser": {}}
        with safe_open(path, "pt") as kept:
            facts = json.loads(kept.metadata()["course"])
            for key in list(kept.keys()):
                part, _, name = key.partition(".")
                parts[part][name] = kept.get_tensor(key)
        self.head.load_state_dict(parts["head"])
        with torch.no_grad():
            for name, weight in self.adapters.items():
                weight.copy_(parts["adapters"][name])
        states: dict[int, dict[str, Tensor]] = {}
        for key, value in parts["optimiser"].items():
            number, _, name = key.partition(".")
            states.setdefault(int(number), {})[name] = value
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": states})
        valid_auc = {int(step): value for step, value in facts["valid_auc"].items()}
        self.course = Course(losses=facts["losses"], valid_auc=valid_auc, best=parts["best"])


def marks(steps: int) -> set[int]:
    """After which steps the valid labels are scored; the last is among them."""
    return {round(steps * number / MARKS) for number in range(1, MARKS + 1)} - {0}


def rate(step: int, steps: int) -> float:
    """Share of the peak learning rate: a linear rise over the first tenth of the steps, then a linear fall."""
    warm_up = max(1, round(steps * WARM_UP_SHARE))
    return min((step + 1) / warm_up, (steps - step) / max(1, steps - warm_up))


def distinct_texts(live: LiveBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """(texts_U, kind → the place in it of each row's text): what a step encodes, each text once."""
    texts_U, place = torch.unique(torch.cat([live.texts_R[kind] for kind in KINDS]), return_inverse=True)
    sizes = [len(live.texts_R[kind]) for kind in KINDS]
    return texts_U, dict(zip(KINDS, torch.split(place, sizes), strict=True))


def _parts(batch: Batch) -> list[Batch]:
    starts = range(0, len(batch), SCORING_ROWS)
    return [Batch(**{name: value[s : s + SCORING_ROWS] for name, value in vars(batch).items()}) for s in starts]
