"""How fast this machine reads texts, noted beside the kept vectors by whoever has just read some, for `msd plan`."""

import platform
from dataclasses import dataclass, field
from pathlib import Path

from msd_models.language_model import device, model_folder
from pipeline.config import Vectors
from pipeline.kept_vectors import KeptVectors
from pipeline.storage import Dataset

NAME = "pace"


@dataclass
class Pace:
    """Tokens and seconds of one process, the first call apart, which loads the model."""

    weights_bytes: int
    """Of the model: spaces of equally large ones are read about equally fast."""
    load_seconds: float = 0.0
    tokens: int = 0
    seconds: float = 0.0
    machine: str = field(default_factory=lambda: f"{platform.node()} {device().type}")

    def add(self, tokens: int, seconds: float) -> None:
        """Counts one call of the encoder."""
        if not self.load_seconds:
            self.load_seconds = seconds
        else:
            self.tokens += tokens
            self.seconds += seconds

    def note(self, kept: KeptVectors, space_id: str) -> None:
        """Keeps it for the space, where there was more than the first call."""
        if self.tokens:
            kept.note(f"{space_id}/{NAME}", vars(self))


def known_pace(kept: KeptVectors, space_id: str, weights_bytes: int) -> Pace | None:
    """What was noted on this machine for the space, else for another one of a model as large."""
    here = Pace(weights_bytes=weights_bytes)
    noted = [(name == f"{space_id}/{NAME}", Pace(**value)) for name, value in kept.all_noted(NAME).items()]
    ours = [
        (is_same, pace)
        for is_same, pace in noted
        if pace.machine == here.machine and (is_same or pace.weights_bytes == weights_bytes)
    ]
    return max(ours, key=lambda pair: pair[0])[1] if ours else None


def weights_bytes(config: Vectors, student: Dataset | None) -> int:
    """Of the model that reads."""
    folder: Path = model_folder(config.encoder) if student is None else student.folder / "model"
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
