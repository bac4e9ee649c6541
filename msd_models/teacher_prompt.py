"""The prompt a teacher reads: worked examples as finished exchanges, then the row's own text between marks.

All questions are made by one template. A small model copies an example that stands in its own question far more often
than one that has been answered already. Rows with the same examples share all of them, and a prefix cache serves them.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msd_models.generators import Prompt
from msd_models.worked_examples import Reference
from pipeline.errors import ConfigError
from pipeline.packaged import packaged

SHIPPED = "msd_models/templates"
MARKS = ("<<<", ">>>")
LANGUAGES = ("en", "zh")
HAN_SHARE = 1 / 3
DIGEST_DIGITS = 8
_HAN = re.compile(r"[\u3400-\u9fff]")
_LETTER = re.compile(r"[^\W\d_]")


class Templates:
    """The `<level>.<language>.jinja` files of one folder."""

    def __init__(self, name: str) -> None:
        """Finds the folder.

        Args:
            name: a built-in name or a path.

        Raises:
            ConfigError: there is no such folder.
        """
        self.folder = _folder(name)
        self.loaded: dict[str, tuple[str, Any]] = {}

    def prompt(self, level: str, language: str, text: str, references: Sequence[Reference]) -> Prompt:
        """The prompt for a text that has been made safe; the marks around it cannot be closed from inside."""
        _, template = self._load(level, language)
        examples = tuple((template.render(text=one.text), one.answer) for one in references)
        for mark in MARKS:
            text = text.replace(mark, " ".join(mark))
        return Prompt(examples=examples, question=template.render(text=text))

    def id_of(self, level: str, language: str) -> str:
        """Name and digest of the template: `item.en@0123abcd`."""
        return self._load(level, language)[0]

    def _load(self, level: str, language: str) -> tuple[str, Any]:
        name = f"{level}.{language}"
        if name not in self.loaded:
            self.loaded[name] = _compile(self.folder / f"{name}.jinja")
        return self.loaded[name]


def language_of(text: str, wanted: str) -> str:
    """The language of a text's prompt.

    Args:
        text: the catalogue's.
        wanted: the setting: `auto` decides by the share of Han characters among the letters.

    Raises:
        ConfigError: a setting that is neither auto nor a language there are templates for.
    """
    if wanted == "auto":
        letters = len(_LETTER.findall(text))
        return "zh" if letters and len(_HAN.findall(text)) >= HAN_SHARE * letters else "en"
    if wanted not in LANGUAGES:
        raise ConfigError(f"teacher_outputs.language is '{wanted}'; choose auto, {' or '.join(LANGUAGES)}")
    return wanted


def _folder(name: str) -> Path:
    folder = Path(name).expanduser()
    if "/" not in name and (packaged(SHIPPED) / name).is_dir():
        folder = packaged(SHIPPED) / name
    if not folder.is_dir():
        built_in = sorted(path.name for path in packaged(SHIPPED).iterdir() if path.is_dir())
        raise ConfigError(
            f"teacher_outputs.template: there is no folder {name}; choose {', '.join(built_in)}, or a folder of"
            " item.en.jinja, user.en.jinja, … in which {{ text }} stands for the row's text"
        )
    return folder


def _compile(path: Path) -> tuple[str, Any]:
    from jinja2 import StrictUndefined, TemplateError, meta
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    if not path.is_file():
        raise ConfigError(f"teacher_outputs.template: {path.parent.name} has no {path.name}; add it, or set language")
    source = path.read_text(encoding="utf-8")
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
    try:
        template, used = environment.from_string(source), meta.find_undeclared_variables(environment.parse(source))
    except TemplateError as error:
        raise ConfigError(f"teacher_outputs.template: {path.name} is not a Jinja template: {error}") from error
    if used != {"text"}:
        raise ConfigError(
            f"teacher_outputs.template: {path.name} uses {sorted(used)}; wanted {{{{ text }}}} and no other"
        )
    return f"{path.stem}@{hashlib.sha256(source.encode()).hexdigest()[:DIGEST_DIGITS]}", template
