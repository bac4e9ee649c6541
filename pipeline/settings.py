"""Settings of every stage from a preset, TOML files and `--set stage.key=value`, later ones winning.

A preset is a TOML file with one table per stage; built-in ones lie in `pipeline/presets/`.
"""

import difflib
import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from pipeline.errors import ConfigError
from pipeline.stages import BY_NAME

Settings = dict[str, Any]
"""Stage name → its frozen settings dataclass."""


def resolve(preset: str, overrides: Iterable[str] = ()) -> Settings:
    """The settings of all stages.

    Args:
        preset: the name of a built-in preset or the path of a TOML file.
        overrides: `stage.key=value` strings; values are TOML, bare words are strings.

    Raises:
        ConfigError: an unknown preset, stage or setting, or a value of the wrong type.
    """
    label, tables = _read_preset(preset)
    values: dict[str, dict[str, Any]] = {name: {} for name in BY_NAME}
    for stage, table in tables.items():
        _check_stage(stage, label)
        if not isinstance(table, dict):
            raise ConfigError(f"{label}: {stage} must be a table: write [{stage}] and its settings below it")
        for key, value in table.items():
            values[stage][key] = typed(BY_NAME[stage].config, stage, key, value, label)
    for override in overrides:
        stage, key, value = _parse_override(override)
        values[stage][key] = typed(BY_NAME[stage].config, stage, key, value, f"--set {override}")
    return {name: stage.config(**values[name]) for name, stage in BY_NAME.items()}


def presets() -> list[str]:
    """Names of the built-in presets."""
    return sorted(path.name[:-5] for path in _preset_folder().iterdir() if path.name.endswith(".toml"))


def identity(config: Any) -> dict[str, Any]:
    """The settings that can change the result, ready for a fingerprint."""
    return {f.name: getattr(config, f.name) for f in fields(config) if f.metadata.get("identity", True)}


def digest(value: Any) -> str:
    """SHA-256 of a JSON-able value, 64 hex digits, the same on every machine."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=list).encode()).hexdigest()


def typed(config: type, table: str, key: str, value: Any, label: str) -> Any:
    """A TOML value as the type that a setting has.

    Args:
        config: the dataclass the setting is of.
        table: what messages call it.
        key: of the setting.
        value: as TOML has it; a single value where the setting is a list is a list of one.
        label: the file or option it stands in.

    Raises:
        ConfigError: there is no such setting, or the value is of another type.
    """
    hints = get_type_hints(config)
    if key not in hints:
        raise ConfigError(f"{label}: [{table}] has no setting '{key}'{suggest(key, hints)}")
    wanted = hints[key]
    if get_origin(wanted) is tuple:
        element = get_args(wanted)[0]
        listed = value if isinstance(value, list | tuple) else [value]
        return tuple(_scalar(element, item, f"[{table}] {key}", label) for item in listed)
    return _scalar(wanted, value, f"[{table}] {key}", label)


def suggest(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: the nearest known one, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; it has {', '.join(names)}"


def _scalar(wanted: type, value: Any, name: str, label: str) -> Any:
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is wanted:
        return value
    raise ConfigError(f"{label}: {name} must be {_KINDS[wanted]}, not {value!r}")


_KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def _preset_folder() -> Any:
    return resources.files("pipeline") / "presets"


def _read_preset(preset: str) -> tuple[str, Mapping[str, Any]]:
    path = Path(preset)
    if path.suffix == ".toml":
        if not path.is_file():
            raise ConfigError(f"preset {preset} is not a file; built-in presets are {', '.join(presets())}")
        text, label = _read_text(path), path.name
    elif preset in presets():
        text, label = (_preset_folder() / f"{preset}.toml").read_text(encoding="utf-8"), preset
    else:
        raise ConfigError(f"there is no preset '{preset}'; choose {', '.join(presets())} or the path of a .toml file")
    try:
        return label, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{label}: not valid TOML: {error}") from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path.name} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def _parse_override(override: str) -> tuple[str, str, Any]:
    name, equals, text = override.partition("=")
    stage, dot, key = name.strip().partition(".")
    if not (equals and dot and key):
        raise ConfigError(f"--set {override}: write stage.key=value, for instance teacher_outputs.temperature=0.7")
    _check_stage(stage, "--set")
    try:
        return stage, key, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return stage, key, text.strip()


def _check_stage(stage: str, label: str) -> None:
    if stage not in BY_NAME:
        raise ConfigError(f"{label}: there is no stage '{stage}'{suggest(stage, BY_NAME)}")
