"""The tiny world in small, with the arms its tests ask about: the flow of it is a minute of processor time."""

import json
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from pipeline import tiny_world

SIZE = tiny_world.Size(num_users=240, words_per_trait=6)
SETTINGS = {
    "prompts": {"item_rows": 300, "user_rows": 120, "near_duplicate": 2.0},
    "student": {"curve": ["nll"]},
    "tuned_student": {"max_steps": 40},
    "ctr_model": {
        "arms": ["din", "random_vectors", "shuffled_vectors", "raw_text", "msd_frozen", "elec_gain", "elec_vanilla"],
        "max_epochs": 8,
        "patience": 2,
    },
}
"""What differs from the preset tiny-world."""


@dataclass(frozen=True)
class Planted:
    """The world's files and the work folder made of them."""

    folder: Path

    @property
    def work(self):
        return self.folder / "work"

    @property
    def options(self):
        """Of every call that is about it."""
        return ("--source", str(self.folder / "source.toml"), "--preset", str(self.folder / "preset.toml"))


def plant(folder, size=SIZE):
    """Writes a world with its source and preset."""
    tiny_world.write(folder, size)
    package = resources.files("pipeline")
    source = (package / "sources" / "tiny-world.toml").read_text(encoding="utf-8")
    (folder / "source.toml").write_text(source.replace("asset:tiny-world", str(folder)), encoding="utf-8")
    preset = tomllib.loads((package / "presets" / "tiny-world.toml").read_text(encoding="utf-8"))
    for stage, chosen in SETTINGS.items():
        preset[stage] = preset.get(stage, {}) | chosen
    preset["teacher_outputs"]["script"] = str(folder / "teacher.jsonl")
    lines = []
    for stage, chosen in preset.items():
        lines += [f"[{stage}]", *(f"{key} = {json.dumps(value)}" for key, value in chosen.items())]
    (folder / "preset.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Planted(folder)
