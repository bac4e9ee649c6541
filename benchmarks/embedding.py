"""Embedding real texts behind a 33-token instruction: packed beside transformers, sentence-transformers and vLLM.

SmolLM2-135M, all 30 layers, bfloat16, the last token's state. Every side gets the same texts and tokenises them itself;
transformers reads them sorted by length, with all cores, and each peer at the best of several batch sizes, chosen on
texts of its own. Sides alternate over slices of the texts; a rate is the tokens a plain forward would have read (what
transformers pads is not counted) over the seconds taken, and the ratio is of the medians. The share of the machine is
what our products came to, linear layers and attention as computed, over the rate of one matrix product of the model's
shapes and of a large square one, whichever is higher, measured between the rounds. Vectors are held to transformers in
float32 on a sample. One line tells what int8 does, one what users read as behaviours cost.

`python benchmarks/embedding.py [--items FILE --histories FILE] [--rounds 4] [--without-vllm]` (7 minutes on two cores).
FILE is a CSV or Parquet file: items with a column `title`, and perhaps `genres`; histories with `text`. Without them
the texts are MovieLens-100K's.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from real_texts import read_histories, read_items, shown

from msd_models.behaviours import BehaviourReader, Behaviours
from msd_models.engines import ModelReading
from msd_models.language_model import SMOLLM2, load_encoder, load_tokenizer, model_folder
from msd_models.packed_engine import PackedEngine
from msd_models.plain_engine import PlainEngine
from msd_models.sentence_encoder import pool
from msd_models.student_prompt import PromptIds, plain_ids
from msd_models.token_batches import pad
from msd_models.vllm_engine import VllmEngine

# N texts, D dimensions

INSTRUCTION = (
    "You know what people like about things. List the key phrases that describe the item below, both what its text"
    " states and what it implies, in few words:\n"
)
MAX_TOKENS = 256
BATCH_ROWS = (16, 32, 64)
CHOOSING_TEXTS = 64
BEHAVIOUR_LAYERS = 2
WANTED_RATIO, WANTED_SHARE = 2.0, 0.75
Side = Callable[[Sequence[str]], np.ndarray]


def main() -> None:
    """Prints rates, ratio and share."""
    options = _options()
    histories = read_histories(options.histories, options.num_users)
    texts = read_items(options.items, options.num_items) + [
        row if isinstance(row, str) else shown(row) for row in histories
    ]
    random.Random(0).shuffle(texts)
    folder = model_folder(SMOLLM2)
    prompt = PromptIds(tokenizer=load_tokenizer(folder), instruction=[], cue=[])
    prompt = PromptIds(tokenizer=prompt.tokenizer, instruction=plain_ids(prompt.tokenizer, INSTRUCTION), cue=[])
    print(f"{len(texts)} texts behind {len(prompt.instruction)} tokens, {torch.get_num_threads()} threads", flush=True)
    ours = packed(folder, prompt, torch.bfloat16)
    sides: dict[str, Side] = {
        "packed": ours,
        "transformers": at_best_size(transformers_side(folder, prompt), texts, "transformers"),
        "sentence-transformers": at_best_size(sentence_transformers_side(folder), texts, "sentence-transformers"),
    }
    if not options.without_vllm:
        sides["vllm"] = engine_side(VllmEngine(reading(folder, prompt, torch.bfloat16)), prompt)
    measure(sides, texts, prompt, load_encoder(folder, torch.bfloat16), options.rounds)
    check({**sides, "packed int8": packed(folder, prompt, torch.int8)}, texts[: options.checked], prompt, folder)
    if options.histories is None:
        time_behaviours(folder, prompt, [row for row in histories if not isinstance(row, str)])


def measure(sides: dict[str, Side], texts: list[str], prompt: PromptIds, model: Any, rounds: int) -> None:
    """Alternates the sides over slices of the texts."""
    rates: dict[str, list[float]] = defaultdict(list)
    products: list[float] = []
    machine: dict[str, list[float]] = defaultdict(list)
    for side in sides.values():
        side(texts[:8])
    for number in range(rounds):
        part = texts[number::rounds]
        lengths = [len(row) for row in prompt.of_all(part, max_tokens=MAX_TOKENS, keep_end=True)]
        for name, gemm in gemm_rates(model.config).items():
            machine[name].append(gemm)
        for name, side in list(sides.items())[:: 1 if number % 2 else -1]:
            started = time.perf_counter()
            side(part)
            taken = time.perf_counter() - started
            rates[name].append(sum(lengths) / taken)
            if name == "packed":
                products.append(arithmetic(lengths, len(prompt.instruction), model.config) / taken)
    medians = {name: statistics.median(found) for name, found in rates.items()}
    for name, rate in medians.items():
        print(f"{name:22s} {rate:8,.0f} tok/s  (rounds: {', '.join(f'{one:,.0f}' for one in rates[name])})")
    best = max((name for name in medians if name != "packed"), key=medians.__getitem__)
    ratio = medians["packed"] / medians[best]
    print(f"ratio to {best}: {ratio:.2f} (wanted {WANTED_RATIO}): {'kept' if ratio >= WANTED_RATIO else 'MISSED'}")
    done = statistics.median(products)
    peaks = {name: statistics.median(found) for name, found in machine.items()}
    share = done / max(peaks.values())
    measured = ", ".join(f"{name} {rate / 1e9:,.0f}" for name, rate in peaks.items())
    print(
        f"arithmetic done {done / 1e9:,.0f} GFLOP/s of {measured}: {share:.0%} (wanted {WANTED_SHARE:.0%}):"
        f" {'kept' if share >= WANTED_SHARE else 'MISSED'}",
        flush=True,
    )


def arithmetic(lengths: Sequence[int], num_instruction: int, config: Any) -> float:
    """Floating-point operations of the packed engine's products: the last layer asks for one state a text."""
    dim, inner, num_layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    heads = config.num_attention_heads * config.head_dim
    keys = 2 * config.num_key_value_heads * config.head_dim
    own_N = np.array(lengths) - num_instruction
    dense = 2 * (dim * 2 * heads + dim * 3 * inner)
    key_values = 2 * dim * keys
    attention_N = 4 * heads * (own_N + num_instruction)
    whole = (own_N * (dense + key_values) + own_N * attention_N).sum() * (num_layers - 1)
    return float(whole + (own_N * key_values + dense + attention_N).sum())


def gemm_rates(config: Any) -> dict[str, float]:
    """Operations a second of bfloat16 products by all cores: of the model's own shapes, and of a large square."""
    dim, inner = config.hidden_size, config.intermediate_size
    shapes = [(dim, dim), (dim, 2 * config.num_key_value_heads * config.head_dim), (dim, dim)]
    shapes += [(dim, inner), (dim, inner), (inner, dim)]
    return {"the model's shapes": _gemm(2048, shapes), "a square of 4096": _gemm(4096, [(4096, 4096)])}


def _gemm(rows: int, shapes: Sequence[tuple[int, int]]) -> float:
    inputs = [torch.randn(rows, wide).bfloat16() for wide, _ in shapes]
    weights = [torch.randn(out, wide).bfloat16() for wide, out in shapes]
    seconds = []
    with torch.inference_mode():
        for _ in range(6):
            started = time.perf_counter()
            for x, weight in zip(inputs, weights, strict=True):
                torch.nn.functional.linear(x, weight)
            seconds.append(time.perf_counter() - started)
    return sum(2 * rows * wide * out for wide, out in shapes) / statistics.median(seconds[1:])


def reading(folder: Path, prompt: PromptIds, dtype: torch.dtype, num_upper: int = 0) -> ModelReading:
    """All sides pool the last token."""
    return ModelReading(
        folder=folder,
        dtype=dtype,
        pooling="last",
        instruction=tuple(prompt.instruction),
        max_tokens=MAX_TOKENS,
        batch_tokens=1024,
        num_upper=num_upper,
    )


def packed(folder: Path, prompt: PromptIds, dtype: torch.dtype) -> Side:
    """Ours."""
    return engine_side(PackedEngine(reading(folder, prompt, dtype)), prompt)


def engine_side(engine: Any, prompt: PromptIds) -> Side:
    """An engine of ours, tokenising included."""
    return lambda texts: engine.read(prompt.of_all(texts, max_tokens=MAX_TOKENS, keep_end=True))


def transformers_side(folder: Path, prompt: PromptIds) -> Callable[[int], Side]:
    """Batch size → transformers' own forward, rows sorted by length."""
    model = load_encoder(folder, torch.bfloat16)

    def of_size(num_rows: int) -> Side:
        @torch.inference_mode()
        def side(texts: Sequence[str]) -> np.ndarray:
            ids = prompt.of_all(texts, max_tokens=MAX_TOKENS, keep_end=True)
            order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
            vectors_ND = np.zeros((len(ids), model.config.hidden_size), dtype=np.float32)
            for start in range(0, len(order), num_rows):
                rows = order[start : start + num_rows]
                ids_BT, mask_BT = pad([ids[row] for row in rows], 0)
                hidden_BTD = model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).last_hidden_state
                vectors_ND[rows] = pool(hidden_BTD, mask_BT, "last").numpy()
            return vectors_ND

        return side

    return of_size


def sentence_transformers_side(folder: Path) -> Callable[[int], Side]:
    """Batch size → sentence-transformers, the same model as a module with pooling."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    # With a chat template beside the model, sentence-transformers would wrap every text in a user's turn.
    plain = Path(tempfile.mkdtemp(prefix="msd-plain-"))
    for file in folder.iterdir():
        if file.name != "chat_template.jinja":
            (plain / file.name).symlink_to(file)
    module = Transformer(str(plain), max_seq_length=MAX_TOKENS, model_kwargs={"dtype": torch.bfloat16})
    module.tokenizer.padding_side = "right"
    pooling = Pooling(module.get_embedding_dimension(), pooling_mode="lasttoken")
    model = SentenceTransformer(modules=[module, pooling], device="cpu")

    def of_size(num_rows: int) -> Side:
        return lambda texts: model.encode(
            [INSTRUCTION + text for text in texts], batch_size=num_rows, convert_to_numpy=True, show_progress_bar=False
        )

    return of_size


def at_best_size(of_size: Callable[[int], Side], texts: Sequence[str], name: str) -> Side:
    """The side at the batch size that reads some texts fastest."""
    seconds: dict[int, float] = {}
    for num_rows in BATCH_ROWS:
        side = of_size(num_rows)
        side(texts[:8])
        started = time.perf_counter()
        side(texts[:CHOOSING_TEXTS])
        seconds[num_rows] = time.perf_counter() - started
    best = min(seconds, key=seconds.__getitem__)
    print(f"{name}: {best} rows a batch, of {', '.join(map(str, BATCH_ROWS))}", flush=True)
    return of_size(best)


def check(sides: dict[str, Side], sample: Sequence[str], prompt: PromptIds, folder: Path) -> None:
    """Prints each side's cosines to transformers in float32, and the seconds it took."""
    wanted_ND = engine_side(PlainEngine(reading(folder, prompt, torch.float32)), prompt)(sample)
    for name, side in sides.items():
        started = time.perf_counter()
        made_ND = side(sample)
        taken = time.perf_counter() - started
        cosine_N = (made_ND * wanted_ND).sum(1) / np.linalg.norm(made_ND, axis=1) / np.linalg.norm(wanted_ND, axis=1)
        print(f"{name:22s} cosine to float32: least {cosine_N.min():.5f}, mean {cosine_N.mean():.5f}; {taken:.1f} s")


def time_behaviours(folder: Path, prompt: PromptIds, histories: Sequence[Behaviours]) -> None:
    """Users read as texts and as behaviours, by the same engine."""
    engine = PackedEngine(reading(folder, prompt, torch.bfloat16, BEHAVIOUR_LAYERS))
    started = time.perf_counter()
    engine_side(engine, prompt)([shown(history) for history in histories])
    as_texts = time.perf_counter() - started
    reader = BehaviourReader(engine, lambda texts: prompt.of_all(texts, max_tokens=MAX_TOKENS, keep_end=False))
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        reader.encode(histories)
        seconds.append(time.perf_counter() - started)
    print(
        f"{len(histories)} users: as texts {as_texts:.1f} s; as behaviours {seconds[0]:.1f} s, {seconds[1]:.2f} s once"
        f" their {len(reader.states)} items' states are there"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--items", type=Path)
    parser.add_argument("--histories", type=Path)
    parser.add_argument("--num-items", type=int, default=2000)
    parser.add_argument("--num-users", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--checked", type=int, default=120, help="texts whose vectors are held to float32")
    parser.add_argument("--without-vllm", action="store_true", help="leaves out the slowest to load")
    return parser.parse_args()


if __name__ == "__main__":
    main()
