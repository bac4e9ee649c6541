"""Hidden states of many texts on disk, text after text without padding: computed once, read at every step.

The file is written through a map in the precision the states were computed in, so that nothing is lost; beside it
stands how far it has got, and a killed run goes on there.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from msd_models.token_batches import map_batches, pad, token_batches
from msd_models.upper_layers import LowerLayers
from pipeline.errors import StageError
from pipeline.progress import progress
from pipeline.storage import write_atomically

# N texts, S tokens of all texts, B texts of a part, T tokens of its longest, D dimensions

STATES, DONE = "states.bin", "states.json"
BYTES: dict[torch.dtype, np.dtype] = {
    torch.float32: np.dtype("<i4"),
    torch.bfloat16: np.dtype("<i2"),
    torch.float16: np.dtype("<i2"),
}
PARTS_PER_NOTE = 32
"""Forward passes between two records of how far the file has got."""


class StoredStates:
    """The states, opened."""

    def __init__(self, states_SD: Tensor, lengths_N: Tensor) -> None:
        """Takes the file's content and the texts' tokens."""
        self.states_SD = states_SD
        self.lengths_N = lengths_N
        self.first_N = torch.cumsum(lengths_N, 0) - lengths_N

    def read(self, texts_B: Tensor) -> tuple[Tensor, Tensor]:
        """(states_BTD, lengths_B) of some texts; what stands behind a text's end repeats its last state."""
        lengths_B = self.lengths_N[texts_B]
        place_T = torch.arange(int(lengths_B.max()))
        place_BT = torch.minimum(place_T, lengths_B.unsqueeze(1) - 1) + self.first_N[texts_B].unsqueeze(1)
        return self.states_SD[place_BT], lengths_B


def store_states(ids: Sequence[Sequence[int]], lower: LowerLayers, folder: Path, batch_tokens: int) -> StoredStates:
    """Runs the lower layers over every text that is not stored yet.

    Args:
        ids: token ids of each text.
        lower: the layers that never change.
        folder: gets the file; one that another run began on the same texts is gone on with.
        batch_tokens: padded tokens of a forward pass.

    Raises:
        StageError: the disk has no room.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lengths_N = torch.tensor([len(row) for row in ids], dtype=torch.long)
    shape = (int(lengths_N.sum()), lower.dimension)
    parts = list(token_batches(lengths_N.tolist(), batch_tokens))
    identity = _identity(ids, lower, batch_tokens)
    done = _parts_done(folder, identity)
    raw_SD = _open(folder / STATES, shape, BYTES[lower.dtype], is_new=done == 0)
    first_N = (torch.cumsum(lengths_N, 0) - lengths_N).tolist()
    with progress("states below the adapted layers", len(ids), "texts") as advance:
        advance(sum(len(rows) for rows in parts[:done]))
        rest = parts[done:]
        made = map_batches(lambda rows: lower(pad([ids[row] for row in rows], 0)[0]).cpu(), rest, lower.device)
        for number, (rows, states_BTD) in enumerate(zip(rest, made, strict=True), start=done + 1):
            for place, row in enumerate(rows):
                own = states_BTD[place, : len(ids[row])].contiguous().view(_as_integers(lower.dtype)).numpy()
                raw_SD[first_N[row] : first_N[row] + len(ids[row])] = own
            advance(len(rows))
            if number % PARTS_PER_NOTE == 0 or number == len(parts):
                raw_SD.flush()
                write_atomically(folder / DONE, json.dumps({"of": identity, "parts": number}).encode())
    return StoredStates(torch.from_numpy(raw_SD).view(lower.dtype), lengths_N)


def _identity(ids: Sequence[Sequence[int]], lower: LowerLayers, batch_tokens: int) -> str:
    summed = hashlib.sha256(f"{lower.dtype} {lower.dimension} {len(lower.part.layers)} {batch_tokens}".encode())
    for row in ids:
        summed.update(np.asarray([len(row), *row], dtype=np.int64).tobytes())
    return summed.hexdigest()


def _parts_done(folder: Path, identity: str) -> int:
    path = folder / DONE
    if not path.is_file() or not (folder / STATES).is_file():
        return 0
    facts = json.loads(path.read_text(encoding="utf-8"))
    return facts["parts"] if facts["of"] == identity else 0


def _open(path: Path, shape: tuple[int, int], dtype: np.dtype, *, is_new: bool) -> np.memmap:
    if is_new:
        # The room is taken before the work begins: a map of a file with holes ends a full disk with a bus error.
        try:
            with path.open("wb") as file:
                _take_room(file.fileno(), shape[0] * shape[1] * dtype.itemsize)
        except OSError as error:
            raise StageError(
                f"tuned_student: {shape[0] * shape[1] * dtype.itemsize / 2**30:.1f} GiB for stored states do not fit:"
                f" {error.strerror}; make room, or --set tuned_student.max_steps to fewer"
            ) from error
    return np.memmap(path, dtype=dtype, mode="r+", shape=shape)


def _take_room(file: int, size: int) -> None:
    import os

    os.posix_fallocate(file, 0, size)


def _as_integers(dtype: torch.dtype) -> torch.dtype:
    return torch.int32 if dtype is torch.float32 else torch.int16
