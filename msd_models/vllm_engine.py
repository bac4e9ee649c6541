"""vLLM's pooling runner as an engine, in a process of its own: it binds threads and memory for as long as it lives.

It is made for GPUs. Prompts go as token ids, so that they are cut as every engine's are, and vectors come as they are
pooled: vLLM would scale them to length one.
"""

import base64
import importlib.util
import queue
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from msd_models.engines import ModelReading
from msd_models.model_process import Event, ModelProcess
from pipeline.errors import ConfigError, MissingExtra

# N texts, D dimensions

WORKER = ("-m", "msd_models.vllm_vectors_worker")


class VllmEngine:
    """A model under vLLM, pooled."""

    def __init__(self, reading: ModelReading, worker: tuple[str, ...] = WORKER) -> None:
        """Starts the process, which loads the model.

        Args:
            reading: the model, and how its vectors are pooled.
            worker: the arguments to Python that run the process.

        Raises:
            MissingExtra: vllm is not installed.
            ConfigError: the dtype or the mode is one vLLM cannot read in.
            ServiceError: the process ended; with the reason it gave.
        """
        if importlib.util.find_spec("vllm") is None:
            raise MissingExtra("engine = vllm needs vllm: install the 'cpu' or 'gpu' extra")
        if reading.dtype == torch.int8:
            raise ConfigError("engine = vllm has no int8 of ours: choose engine = packed, or dtype = bfloat16")
        if reading.num_upper:
            raise ConfigError("engine = vllm cannot run layers apart: choose engine = packed for mode = behaviours")
        settings = {
            "model": str(reading.folder),
            "dtype": str(reading.dtype).removeprefix("torch."),
            "max_model_len": reading.max_tokens,
            "pooling": reading.pooling,
            "num_instruction": len(reading.instruction),
        }
        self.events: queue.Queue[Event] = queue.Queue()
        self.process = ModelProcess(worker, settings, {}, self.events)
        self._reply()

    def read(self, ids: Sequence[Sequence[int]]) -> np.ndarray:
        """Vectors [N, D] in float32."""
        self.process.send({"id": "texts", "ids": [list(row) for row in ids]})
        reply = self._reply()
        self.process.in_flight.clear()
        return np.frombuffer(base64.b64decode(str(reply["vectors"])), dtype="<f4").reshape(len(ids), -1)

    def lower_states(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Not to be had from vLLM; the constructor refuses such a reading."""
        raise ConfigError(f"engine = vllm cannot run layers apart, asked for {len(ids)} prompts")

    def upper_vectors(self, sequences: Sequence[Tensor]) -> np.ndarray:
        """Not to be had from vLLM; the constructor refuses such a reading."""
        raise ConfigError(f"engine = vllm cannot run layers apart, asked for {len(sequences)} sequences")

    def close(self) -> None:
        """Ends the process."""
        self.process.stop()

    def _reply(self) -> dict[str, object]:
        _, reply = self.events.get()
        if reply is None:
            error = self.process.failure()
            self.process.stop()
            raise error
        return reply
