"""Which engine runs the model: the one a setting names, or the fastest on a few of the texts.

Engines are tried one after the other, never two at once, since a model may fill the memory. A short run of work is not
worth a trial: the packed engine reads whatever it can read, transformers the rest.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from msd_models.engines import LayeredEngine, ModelReading
from msd_models.language_model import device
from msd_models.packed_engine import PackedEngine
from msd_models.plain_engine import PlainEngine
from msd_models.vllm_engine import VllmEngine
from pipeline.errors import ConfigError, MsdError
from pipeline.progress import note

# N prompts, D dimensions

ENGINES: dict[str, Callable[[ModelReading], LayeredEngine]] = {
    "packed": PackedEngine,
    "plain": PlainEngine,
    "vllm": VllmEngine,
}
AUTO = "auto"
TRIAL_TOKENS = 1200
"""Read by each engine on trial, after as many to warm up."""
TRIAL_ROUNDS = 3
"""The quickest counts: what a round takes longer is other programs' work."""
MIN_WORK = 40
"""Times those tokens there must be to read for a trial to pay."""
MIN_VLLM_TOKENS = 200_000
"""From this many tokens at hand on vLLM takes part, on a GPU: it takes a minute to load."""
AGREEMENT = 0.98
"""Least cosine between the vectors of two engines that read the same model, int8 beside bfloat16 included."""


def check_engine(name: str) -> None:
    """Raises a ConfigError for an engine that there is not."""
    if name != AUTO and name not in ENGINES:
        raise ConfigError(f"engine '{name}' is unknown; choose {AUTO}, {', '.join(ENGINES)}")


def open_engine(name: str, reading: ModelReading, ids: Sequence[Sequence[int]]) -> LayeredEngine:
    """The engine of that name, loaded.

    Args:
        name: of the engine, or auto.
        reading: the model and how it reads.
        ids: prompts at hand.

    Raises:
        ConfigError: the engine cannot read the model, or none can.
        MissingExtra: its library is not installed.
    """
    if name != AUTO:
        return ENGINES[name](reading)
    if sum(map(len, ids)) >= MIN_WORK * TRIAL_TOKENS and not reading.num_upper:
        return _fastest(reading, ids)
    try:
        return PackedEngine(reading)
    except ConfigError as error:
        note(f"  engine: plain; {error}")
        return PlainEngine(reading)


def _fastest(reading: ModelReading, ids: Sequence[Sequence[int]]) -> LayeredEngine:
    """Every engine on the same few prompts; the fastest of those that agree with the first one that could read them."""
    tried = _tried_prompts(ids)
    num_tokens = sum(map(len, tried))
    seconds: dict[str, float] = {}
    left_out: list[str] = []
    engine: LayeredEngine | None = None
    wanted_ND: np.ndarray | None = None
    # The reference of transformers first; the one most likely to win last, so that it need not be loaded twice.
    for name in _candidates(ids):
        if engine is not None:
            engine.close()
        try:
            engine = ENGINES[name](reading)
            taken, vectors_ND = _timed(engine, tried)
        except (MsdError, RuntimeError) as error:
            left_out.append(f"{name} left out: {(str(error).splitlines() or [type(error).__name__])[0]}")
            continue
        wanted_ND = vectors_ND if wanted_ND is None else wanted_ND
        if _agreement(vectors_ND, wanted_ND) < AGREEMENT:
            left_out.append(f"{name} left out: its vectors differ from those of {next(iter(seconds))}")
            continue
        seconds[name] = taken
    if not seconds or engine is None:
        raise ConfigError(f"no engine can read {reading.folder}: {'; '.join(left_out)}")
    fastest = min(seconds, key=seconds.__getitem__)
    rates = ", ".join(f"{name} {num_tokens / taken:,.0f} tok/s" for name, taken in seconds.items())
    note(f"  engine: {fastest} ({'; '.join([rates, *left_out])})")
    if type(engine) is not ENGINES[fastest]:
        engine.close()
        engine = ENGINES[fastest](reading)
    return engine


def _candidates(ids: Sequence[Sequence[int]]) -> list[str]:
    with_vllm = device().type == "cuda" and sum(map(len, ids)) >= MIN_VLLM_TOKENS
    return ["plain", *(["vllm"] if with_vllm else []), "packed"]


def _tried_prompts(ids: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """Prompts from everywhere in ids, about TRIAL_TOKENS tokens of them."""
    tried: list[Sequence[int]] = []
    num_tokens = 0
    for row in np.random.default_rng(0).permutation(len(ids)):
        if num_tokens >= TRIAL_TOKENS:
            break
        tried.append(ids[row])
        num_tokens += len(ids[row])
    return tried


def _timed(engine: LayeredEngine, ids: Sequence[Sequence[int]]) -> tuple[float, np.ndarray]:
    """Seconds for the prompts by a warm engine, and their vectors."""
    vectors_ND = engine.read(ids)
    seconds = []
    for _ in range(TRIAL_ROUNDS):
        started = time.perf_counter()
        engine.read(ids)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return min(seconds), vectors_ND


def _agreement(one_ND: np.ndarray, other_ND: np.ndarray) -> float:
    """The least cosine between the rows of two engines; not a number counts as none."""
    lengths_N = np.linalg.norm(one_ND, axis=1) * np.linalg.norm(other_ND, axis=1)
    return float(np.nan_to_num((one_ND * other_ND).sum(axis=1) / np.maximum(lengths_N, 1e-30), nan=-1.0).min())
