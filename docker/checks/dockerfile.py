"""Reads a Dockerfile into its stages: as much of the language as ours uses, refused where it is more.

No library is used: those on PyPI take one stage's instructions apart and know neither flags nor the stages' order.
"""

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

KNOWN = {
    "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "RUN", "USER", "WORKDIR",
}  # fmt: skip
REFERENCE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One instruction, its lines joined."""

    word: str
    flags: tuple[str, ...]
    """`--link`, `--from=…`: what stands before the arguments."""
    text: str
    line: int

    @property
    def words(self) -> list[str]:
        """The arguments: of the JSON form as they are, of the other as a shell splits them."""
        return list(json.loads(self.text)) if self.text.startswith("[") else shlex.split(self.text)

    def flag(self, name: str) -> str | None:
        """The value of `--name=value`; None where it is not given."""
        values = [flag.partition("=")[2] for flag in self.flags if flag.partition("=")[0] == f"--{name}"]
        return values[-1] if values else None


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What lies between two FROMs."""

    name: str
    parent: str
    """Another stage's name, or an image."""
    instructions: tuple[Instruction, ...]


@dataclass
class Dockerfile:
    """The stages of a file by name, in order."""

    stages: dict[str, Stage] = field(default_factory=dict)

    def lineage(self, name: str) -> list[Stage]:
        """The stage and those it stands on, the first one first."""
        stage = self.stages[name]
        return [*(self.lineage(stage.parent) if stage.parent in self.stages else []), stage]

    def base_image(self, name: str) -> str:
        """The image that is none of ours, at the bottom of a stage."""
        return self.lineage(name)[0].parent

    def last(self, name: str, word: str) -> Instruction | None:
        """The instruction that holds in a stage, where each one overrules the one before."""
        found = [one for stage in self.lineage(name) for one in stage.instructions if one.word == word]
        return found[-1] if found else None

    def environment(self, name: str) -> dict[str, str]:
        """What ENV has set in a stage."""
        pairs = [
            pair.partition("=")
            for stage in self.lineage(name)
            for one in stage.instructions
            if one.word == "ENV"
            for pair in one.words
        ]
        return {key: value for key, _, value in pairs}


def read(path: Path) -> Dockerfile:
    """The stages of a Dockerfile.

    Raises:
        ValueError: an instruction that is not known here, or one outside of a stage.
    """
    read_so_far = Dockerfile()
    arguments: dict[str, str] = {}
    name, parent, held = "", "", list[Instruction]()
    for one in _instructions(path.read_text(encoding="utf-8")):
        if one.word == "FROM":
            _close(read_so_far, name, parent, held)
            image, _, name = one.words[0], one.words[1], one.words[2]
            parent, held = REFERENCE.sub(lambda match: arguments[match[1]], image), []
        elif not name:
            if one.word != "ARG":
                raise ValueError(f"line {one.line}: {one.word} stands before the first FROM")
            key, _, value = one.text.partition("=")
            arguments[key] = value
        else:
            held.append(one)
    _close(read_so_far, name, parent, held)
    return read_so_far


def _close(dockerfile: Dockerfile, name: str, parent: str, held: list[Instruction]) -> None:
    if name:
        dockerfile.stages[name] = Stage(name=name, parent=parent, instructions=tuple(held))


def _instructions(text: str) -> list[Instruction]:
    found, logical, first = [], "", 0
    for number, raw in enumerate(text.splitlines(), start=1):
        if raw.lstrip().startswith("#") or (not raw.strip() and not logical):
            continue
        first = first if logical else number
        logical += raw.strip().removesuffix("\\") + " "
        if not raw.rstrip().endswith("\\"):
            found.append(_instruction(logical.strip(), first))
            logical = ""
    return found


def _instruction(logical: str, line: int) -> Instruction:
    word, _, rest = logical.partition(" ")
    if word not in KNOWN:
        raise ValueError(f"line {line}: {word} is not an instruction known here; there are {', '.join(sorted(KNOWN))}")
    flags = []
    while match := re.match(r"(--[\w-]+(?:=\S+)?)\s+", rest.strip() + " "):
        flags.append(match[1])
        rest = rest.strip()[match.end() - 1 :].strip()
    return Instruction(word=word, flags=tuple(flags), text=rest.strip(), line=line)
