"""A step of LoRA end to end: states of the lower layers stored, beside transformers' own forward of the whole model.

Both train the same adapters from the same start on the same labels, so that their loss curves must be one curve. The
peer runs peft's model as it is, rows sorted by length in the same passes and precision, without a graph below the
adapters. Steps alternate; the ratio is of the medians. Token ids are random, in the lengths of MovieLens-100K's texts:
titles with their genres, and users' histories of eight titles.

`python benchmarks/lora_step.py [ROUNDS] [--depths]` (default 6; a minute on two cores, with --depths three)
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from msd_models.language_model import cpu_threads, resolve_dtype
from msd_models.sentence_encoder import pool
from msd_models.stored_states import StoredStates, store_states
from msd_models.student_layers import initial_student
from msd_models.token_batches import pad
from msd_models.tuning_step import LiveVectors
from msd_models.upper_layers import LowerLayers, UpperLayers, decoder_of, with_upper_adapters
from pipeline.config import Student, TunedStudent

# U distinct texts, B labels, D dimensions

WANTED = 3.0
NUM_ITEMS, NUM_USERS = 400, 100
LABELS, ITEMS_A_STEP, USERS_A_STEP = 64, 200, 60
ITEM_TOKENS, USER_TOKENS = (15, 36), (50, 129)
NUM_INSTRUCTION = 5
WIDTH = 32
CONFIG = TunedStudent()


@dataclass
class Side:
    """One of the two, with adapters, network and optimiser of its own."""

    model: Any
    head: nn.Module
    optimiser: torch.optim.Optimizer
    backward: Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]


class Head(nn.Module):
    """A click model of two projections: enough to hand the adapters a gradient that is each text's own."""

    def __init__(self, dim: int) -> None:
        """Both sides draw the same weights."""
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.item, self.user = nn.Linear(dim, WIDTH), nn.Linear(dim, WIDTH)

    def forward(self, items_BD: Tensor, users_BD: Tensor) -> Tensor:
        """logit_B."""
        return (self.item(self.norm(items_BD)) * self.user(self.norm(users_BD))).sum(dim=1) / WIDTH**0.5


def main() -> None:
    """Measures the default student, and with --depths others."""
    arguments = [word for word in sys.argv[1:] if not word.startswith("--")]
    rounds = int(arguments[0]) if arguments else 6
    with cpu_threads(CONFIG.threads):
        ratio = measure(Student().num_layers, CONFIG.adapted_layers, rounds)
        for num_layers, adapted in ((6, 2), (12, 1), (30, 1)) if "--depths" in sys.argv else ():
            measure(num_layers, adapted, max(2, rounds // 3))
    print(f"full forward / ours: {ratio:.2f} (wanted {WANTED}): {'kept' if ratio >= WANTED else 'MISSED'}")


def measure(num_layers: int, adapted_layers: int, rounds: int) -> float:
    """Prints and returns how many times as long the full forward's step takes."""
    config = TunedStudent(adapted_layers=adapted_layers)
    ids = texts()
    with tempfile.TemporaryDirectory(prefix="msd-lora-") as folder:
        started = time.perf_counter()
        ours, states = stored(num_layers, config, ids, Path(folder))
        storing = time.perf_counter() - started
        peer = whole(num_layers, config, ids, states)
        seconds: dict[str, list[float]] = {"ours": [], "peer": []}
        losses: dict[str, list[float]] = {"ours": [], "peer": []}
        step(ours, labels(-1), learns=False)
        step(peer, labels(-1), learns=False)
        for number in range(rounds):
            for name, side in (("ours", ours), ("peer", peer))[:: 1 if number % 2 else -1]:
                started = time.perf_counter()
                losses[name].append(step(side, labels(number)))
                seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    ratio = medians["peer"] / medians["ours"]
    apart = max(abs(one - other) for one, other in zip(losses["ours"], losses["peer"], strict=True))
    fell = losses["ours"][0] - losses["ours"][-1]
    print(
        f"{num_layers:2d} layers, {adapted_layers} adapted: {medians['ours']:6.2f} s a step, full forward"
        f" {medians['peer']:6.2f} s: {ratio:5.1f} times; losses differ by {apart:.4f} at most while they fall by"
        f" {fell:.4f}; {sum(map(len, ids)):,} tokens stored in {storing:.1f} s",
        flush=True,
    )
    return ratio


def texts() -> list[list[int]]:
    """Items, then users."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for count, (low, high) in ((NUM_ITEMS, ITEM_TOKENS), (NUM_USERS, USER_TOKENS)):
        for length in torch.randint(low, high, (count,), generator=generator).tolist():
            made.append(torch.randint(100, 10_000, (length,), generator=generator).tolist())
    return made


def labels(number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(texts_U, item_B, user_B, click_B) of a step; a user clicks what is alike in the parity of its number."""
    generator = torch.Generator().manual_seed(100 + number)
    items = torch.randperm(NUM_ITEMS, generator=generator)[:ITEMS_A_STEP]
    users = torch.randperm(NUM_USERS, generator=generator)[:USERS_A_STEP]
    item_B = torch.randint(ITEMS_A_STEP, (LABELS,), generator=generator)
    user_B = torch.randint(USERS_A_STEP, (LABELS,), generator=generator)
    click_B = ((items[item_B] + users[user_B]) % 2).float()
    return torch.cat([items, users + NUM_ITEMS]), item_B, user_B + ITEMS_A_STEP, click_B


def step(side: Side, drawn: tuple[Tensor, Tensor, Tensor, Tensor], *, learns: bool = True) -> float:
    """One optimiser step; returns its loss."""
    texts_U, item_B, user_B, click_B = drawn
    side.optimiser.zero_grad()
    loss = side.backward(
        texts_U,
        lambda v_UD: nn.functional.binary_cross_entropy_with_logits(side.head(v_UD[item_B], v_UD[user_B]), click_B),
    )
    if learns:
        side.optimiser.step()
    return float(loss)


def stored(num_layers: int, config: TunedStudent, ids: list[list[int]], folder: Path) -> tuple[Side, StoredStates]:
    """Ours, and the states it stored."""
    model = _model(num_layers, config)
    decoder = decoder_of(model)
    lower = LowerLayers(decoder, num_layers - config.adapted_layers)
    states = store_states(ids, lower, folder, config.batch_tokens // 16)
    upper = UpperLayers(decoder, num_layers - config.adapted_layers, "last", NUM_INSTRUCTION)
    return _side(model, LiveVectors(upper, states, config.batch_tokens).backward), states


def whole(num_layers: int, config: TunedStudent, ids: list[list[int]], states: StoredStates) -> Side:
    """The peer: the whole model's own forward, in the same parts."""
    model = _model(num_layers, config)
    decoder = decoder_of(model)

    class Ids:
        """Token ids in the place of stored states."""

        lengths_N = states.lengths_N

        def read(self, texts_B: Tensor) -> tuple[Tensor, Tensor]:
            return pad([ids[text] for text in texts_B.tolist()], 0)[0], self.lengths_N[texts_B]

    def forward(ids_BT: Tensor, lengths_B: Tensor) -> Tensor:
        hidden_BTD = decoder(input_ids=ids_BT, use_cache=False).last_hidden_state
        return pool(hidden_BTD, (torch.arange(ids_BT.shape[1]) < lengths_B.unsqueeze(1)).long(), "last")

    return _side(model, LiveVectors(forward, Ids(), config.batch_tokens).backward)


def _model(num_layers: int, config: TunedStudent) -> Any:
    student, _ = initial_student(Student(num_layers=num_layers), [])
    return with_upper_adapters(student.requires_grad_(False).to(resolve_dtype("auto")), config)


def _side(model: Any, backward: Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]) -> Side:
    torch.manual_seed(0)
    head = Head(model.config.hidden_size)
    adapters = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [{"params": adapters, "lr": CONFIG.learning_rate}, {"params": head.parameters(), "lr": 1e-3}]
    return Side(model, head, torch.optim.AdamW(groups), backward)


if __name__ == "__main__":
    main()
