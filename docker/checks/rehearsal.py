"""Carries out an image's instructions in a folder instead of an image: the same commands, every path inside the folder.

What a folder cannot have is left out and said: users, Debian's packages (apt only simulates them), tini.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile import Dockerfile, Instruction, Stage

OURS = "opt|build|work|cache|scratch|metrics|home/msd|var/lib/airflow|var/log/airflow|run/\\w+|etc/redis|usr/local"
INSIDE = re.compile(rf"(?<![\w./])/({OURS})(?=[/:\s\"']|$)")
"""The paths of an image that are moved into the folder; all others are the machine's own."""
PASSED_ON = re.compile(r"(UV_|PIP_|SSL_CERT|(HTTPS?|NO|ALL)_PROXY)", re.IGNORECASE)
LEFT_OUT = ("apt-get update", "rm -rf /var/lib/apt", "groupadd ", "useradd ")
STEP_SECONDS = 900


@dataclass
class Rehearsal:
    """A folder that one target's instructions are carried out in."""

    dockerfile: Dockerfile
    context: Path
    root: Path
    find_links: str = ""
    """A folder of wheels with a CPU torch, where PyTorch's own index is out of reach."""
    has_pip: bool = True
    """Whether the Python of the base image is laid in with pip, which takes seconds."""
    left_out: list[str] = field(default_factory=list)
    _done: set[str] = field(default_factory=set)

    def build(self, target: str) -> None:
        """Carries out a stage, after those it stands on and copies from.

        Raises:
            subprocess.CalledProcessError: a command fails.
        """
        if not self._done:
            options = [] if self.has_pip else ["--without-pip"]
            subprocess.run([sys.executable, "-m", "venv", *options, str(self.root / "usr/local")], check=True)
        for stage in self.dockerfile.lineage(target):
            if stage.name not in self._done:
                self._done.add(stage.name)
                self._carry_out(stage)

    def inside(self, text: str) -> str:
        """The text with an image's paths as they are here."""
        return INSIDE.sub(lambda match: f"{self.root}/{match[1]}", text)

    def environment(self, stage: str) -> dict[str, str]:
        """What a container of the stage finds, and nothing else of this process."""
        said = {key: self.inside(value) for key, value in self.dockerfile.environment(stage).items()}
        said.setdefault("PATH", f"{self.root}/usr/local/bin:{os.defpath}")
        return said

    def command(self, target: str) -> list[str]:
        """What a container of the target runs: entry point and command, without tini."""
        words = []
        for word in ("ENTRYPOINT", "CMD"):
            found = self.dockerfile.last(target, word)
            words += [self.inside(argument) for argument in found.words] if found else []
        return words[words.index("--") + 1 :] if "--" in words[:2] else words

    def health(self, target: str) -> list[str]:
        """What the image's health check runs."""
        found = self.dockerfile.last(target, "HEALTHCHECK")
        assert found is not None
        form, _, command = found.text.partition(" ")
        return [self.inside(word) for word in json.loads(command)] if form == "CMD" else []

    def _carry_out(self, stage: Stage) -> None:
        standing = self.dockerfile.last(stage.parent, "WORKDIR") if stage.parent in self.dockerfile.stages else None
        folder = Path(self.inside(standing.text)) if standing else self.root
        for one in stage.instructions:
            if one.word == "WORKDIR":
                folder = Path(self.inside(one.text))
                folder.mkdir(parents=True, exist_ok=True)
            elif one.word == "COPY":
                self._copy(one, folder)
            elif one.word == "RUN":
                self._run(one, stage.name, folder)

    def _copy(self, one: Instruction, folder: Path) -> None:
        *sources, target = one.words
        origin = one.flag("from")
        if origin is not None:
            self.build(origin)
            assert sources == [target], f"line {one.line}: a stage's folder is copied to where it lay"
            assert Path(self.inside(target)).exists(), f"line {one.line}: {origin} has made no {target}"
            return
        place = folder / self.inside(target)
        for source in sources:
            found = self.context / source
            to = place / found.name if target.endswith("/") else place
            to.parent.mkdir(parents=True, exist_ok=True)
            if found.is_dir():
                shutil.copytree(found, to, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(found, to)

    def _run(self, one: Instruction, stage: str, folder: Path) -> None:
        steps = [self._step(step.strip()) for step in one.text.split(" && ")]
        wanted = [step for step in steps if step]
        if not wanted:
            return
        folder.mkdir(parents=True, exist_ok=True)
        passed_on = {key: value for key, value in os.environ.items() if PASSED_ON.match(key) or key == "HOME"}
        # Files are shared with the package cache where the disk allows it: gigabytes then cost only their bytecode.
        said = {**passed_on, **self.environment(stage), "UV_LINK_MODE": "hardlink"}
        # In an image there is one Python; here uv would find others before that of an environment.
        said["UV_PYTHON"] = str(Path(self.root / "usr/local/bin/python").resolve())
        if self.find_links:
            said.pop("UV_TORCH_BACKEND", None)
            said["UV_FIND_LINKS"] = self.find_links
        sys.stderr.write(f"    line {one.line}: {' && '.join(wanted)}\n")
        sys.stderr.flush()
        subprocess.run(
            ["sh", "-euc", " && ".join(wanted)],
            cwd=folder,
            env=said,
            check=True,
            timeout=STEP_SECONDS,
            stdout=sys.stderr,
        )

    def _step(self, step: str) -> str:
        if step.startswith(LEFT_OUT):
            self.left_out.append(step)
            return ""
        if step.startswith("apt-get install"):
            if shutil.which("apt-get") is None:
                self.left_out.append(step)
                return ""
            return step.replace("apt-get install", "apt-get --quiet --quiet --simulate install") + " >/dev/null"
        if step.startswith("install -d"):
            return self.inside(step.replace("-o 10001 -g 10001 ", ""))
        return self.inside(step)
