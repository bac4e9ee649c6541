"""vLLM's pooling runner as an engine: the same vectors, and a death that has a name."""

import os
import signal
import time

import numpy as np
import psutil
import pytest
import torch

from msd_models.engines import ModelReading
from msd_models.packed_engine import PackedEngine
from msd_models.vllm_engine import WORKER, VllmEngine
from pipeline.errors import ConfigError, ServiceError

INSTRUCTION = (5, 9, 2)
IDS = [[*INSTRUCTION, *text] for text in ([7], [1, 3, 4, 4], [8, 6] * 20, [2, 2, 9, 9])]


def reading(folder, **changes):
    values = {"folder": folder, "dtype": torch.float32, "pooling": "last", "instruction": INSTRUCTION}
    return ModelReading(**{**values, "max_tokens": 64, "batch_tokens": 1024, **changes})


@pytest.mark.vllm
@pytest.mark.xdist_group("vllm")
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_vllm_pools_what_the_packed_engine_pools(small_llama, vllm_worker, pooling):
    wanted = PackedEngine(reading(small_llama, pooling=pooling)).read(IDS)
    engine = VllmEngine(reading(small_llama, pooling=pooling), vllm_worker(*WORKER[1:]))
    process = psutil.Process(engine.process.process.pid)
    try:
        np.testing.assert_allclose(engine.read(IDS), wanted, atol=1e-4)
        np.testing.assert_allclose(engine.read(IDS[::-1]), wanted[::-1], atol=1e-4)
        if pooling == "last":
            os.kill(process.pid, signal.SIGKILL)
            with pytest.raises(ServiceError, match="model's process ended with code -9"):
                read_until(engine, time.monotonic() + 30)
    finally:
        engine.close()
    assert not process.is_running()


def read_until(engine, deadline):
    """Reads on: the fork that works for a killed process outlives it by some milliseconds."""
    while time.monotonic() < deadline:
        engine.read(IDS)


def test_what_vllm_cannot_do_is_said_before_it_is_loaded(small_llama):
    with pytest.raises(ConfigError, match="choose engine = packed, or dtype"):
        VllmEngine(reading(small_llama, dtype=torch.int8))
    with pytest.raises(ConfigError, match="mode = behaviours"):
        VllmEngine(reading(small_llama, num_upper=1))
