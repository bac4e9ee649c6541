"""What `msd tune` may try of a setting, as arms files declare it: {low, high, log} or {choices}."""

import math
from collections.abc import Mapping
from typing import Any, get_type_hints

from pipeline.config import CtrModel
from pipeline.errors import ConfigError
from pipeline.settings import suggest, typed

RANGE_KEYS, CHOICE_KEYS = {"low", "high", "log"}, {"choices"}


def read_space(table: str, space: Mapping[str, Any], label: str) -> dict[str, dict[str, Any]]:
    """The declared space, its numbers of the settings' types.

    Args:
        table: what messages call it.
        space: setting → what may be tried; the settings are known ones.
        label: the file it stands in.

    Returns:
        Setting → {low, high, log} or {choices: tuple}.

    Raises:
        ConfigError: a value is of another type, a range is empty, or it is neither a range nor choices.
    """
    return {setting: _dimension(table, setting, declared, label) for setting, declared in space.items()}


def _dimension(table: str, setting: str, declared: Any, label: str) -> dict[str, Any]:
    place = f"{label}: [{table}] {setting}"
    if not isinstance(declared, dict) or not ({"low", "high"} <= set(declared) or "choices" in declared):
        raise ConfigError(f"{place} must be {{ low = …, high = … }} or {{ choices = […] }}, not {declared!r}")
    known = CHOICE_KEYS if "choices" in declared else RANGE_KEYS
    for key in declared:
        if key not in known:
            raise ConfigError(f"{place} has no '{key}'{suggest(key, known)}")
    if "choices" in declared:
        return _choices(table, setting, declared["choices"], label)
    return _range(table, setting, declared, label)


def _choices(table: str, setting: str, choices: Any, label: str) -> dict[str, Any]:
    if not isinstance(choices, list) or not choices:
        raise ConfigError(f"{label}: [{table}] {setting} choices must be a list with one value at least")
    return {"choices": tuple(typed(CtrModel, table, setting, choice, label) for choice in choices)}


def _range(table: str, setting: str, declared: Mapping[str, Any], label: str) -> dict[str, Any]:
    place = f"{label}: [{table}] {setting}"
    if get_type_hints(CtrModel)[setting] not in (int, float):
        raise ConfigError(f"{place} is no number and has no range; write {{ choices = […] }}")
    low, high = (typed(CtrModel, table, setting, declared[key], label) for key in ("low", "high"))
    is_log = declared.get("log", False)
    if type(is_log) is not bool:
        raise ConfigError(f"{place} log must be true or false, not {is_log!r}")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"{place} goes from {low} to {high}; low must be below high")
    if is_log and low <= 0:
        raise ConfigError(f"{place} starts at {low}; a range on a log scale starts above 0")
    return {"low": low, "high": high, "log": is_log}
