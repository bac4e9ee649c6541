"""Arms from TOML: the built-in ones, and over them those of a user's file.

A table of a user's file changes the built-in arm of its name key by key, or makes a new one. `like` starts from another
arm as it is in the end, so that what a file changes of `msd` holds for `msd_no_user` as well.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import Any, get_args, get_type_hints

from msd_models.arms import NOT_OF_AN_ARM, Arm, Injection, Module
from msd_models.search_space import read_space
from msd_models.vector_tables import VectorSource
from pipeline.config import CtrModel
from pipeline.errors import ConfigError
from pipeline.settings import suggest, typed

BUILT_IN = "arms.toml"
FOR_ALL = "default"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
Tables = dict[str, dict[str, Any]]


def read_arms(arms_file: str = "") -> dict[str, Arm]:
    """All arms by name.

    Args:
        arms_file: a user's TOML; empty: the built-in ones alone.

    Raises:
        ConfigError: the file is not there or not TOML; a key, setting, arm or value is unknown or does not go together.
    """
    text = (resources.files("msd_models") / BUILT_IN).read_text(encoding="utf-8")
    tables, label = _parsed(text, BUILT_IN), BUILT_IN
    if arms_file:
        label = Path(arms_file).name
        _overlay(tables, _parsed(_text(arms_file), label))
    for_all = tables.pop(FOR_ALL, {})
    arms = {name: Arm(name=name, **_resolved(name, tables, for_all, label)) for name in tables}
    for arm in arms.values():
        _check(arm, arms, label)
    return arms


def compared_arms(config: CtrModel, arms: Mapping[str, Arm]) -> list[Arm]:
    """The arms that the settings name, each after the one it learns from.

    Raises:
        ConfigError: an arm is unknown.
    """
    unknown = [name for name in config.arms if name not in arms]
    if unknown:
        raise ConfigError(f"[ctr_model] arms names {', '.join(unknown)}; there are {', '.join(arms)}")
    ordered: dict[str, Arm] = {}
    for name in config.arms:
        chain = [arms[name]]
        while chain[-1].learns_from:
            chain.append(arms[chain[-1].learns_from])
        ordered.update({arm.name: arm for arm in reversed(chain)})
    return list(ordered.values())


def vectors_read(config: CtrModel) -> frozenset[str]:
    """Whose vectors the compared arms read: student, tuned, raw_text; empty where every arm is tabular.

    The student's belong to every vector arm: they say which rows have a vector, and placebos are made of them.

    Raises:
        ConfigError: an arm is unknown, or the arms file is wrong.
    """
    read = {arm.vectors for arm in compared_arms(config, read_arms(config.arms_file)) if arm.vectors is not None}
    made = {VectorSource.TUNED, VectorSource.RAW_TEXT} & read
    return frozenset(map(str, {VectorSource.STUDENT, *made} if read else ()))


def _text(arms_file: str) -> str:
    path = Path(arms_file)
    if not path.is_file():
        raise ConfigError(f"arms_file {arms_file} is not a file; write one (docs/arms.md), or leave the setting empty")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path.name} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def _parsed(text: str, label: str) -> Tables:
    """The tables of a file, each key and value of the kind that it must have."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{label}: not valid TOML: {error}") from error
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise ConfigError(f"{label}: {name} must be a table: write [{name}] and its keys below it")
        if not NAME.fullmatch(name):
            raise ConfigError(f"{label}: [{name}] names files too: use small letters, digits, _ and - only")
        if name == FOR_ALL and (other := [key for key in table if key != "space"]):
            raise ConfigError(f"{label}: [default] has space alone, not {other[0]}; settings of all are [ctr_model]'s")
        tables[name] = {key: _value(name, key, value, label) for key, value in table.items()}
    return tables


def _value(name: str, key: str, value: Any, label: str) -> Any:
    """What stands under a key of an arm."""
    if key in ("settings", "space"):
        if not isinstance(value, dict):
            raise ConfigError(f"{label}: [{name}] {key} must be a table: write [{name}.{key}] and its keys below it")
        for setting in value:
            _check_setting(f"{name}.{key}", setting, label)
        if key == "space":
            return read_space(f"{name}.space", value, label)
        return {one: typed(CtrModel, f"{name}.settings", one, own, label) for one, own in value.items()}
    wanted = {field.name for field in fields(Arm)} - {"name"} | {"like"}
    if key not in wanted:
        raise ConfigError(f"{label}: [{name}] has no key '{key}'{suggest(key, wanted)}")
    return _plain(name, key, value, label)


def _check_setting(table: str, setting: str, label: str) -> None:
    known = {field.name for field in fields(CtrModel)} - set(NOT_OF_AN_ARM)
    if setting in NOT_OF_AN_ARM:
        raise ConfigError(f"{label}: [{table}] cannot have '{setting}', which all arms share; set ctr_model.{setting}")
    if setting not in known:
        raise ConfigError(f"{label}: [{table}] has no setting '{setting}'{suggest(setting, known)}")


def _plain(name: str, key: str, value: Any, label: str) -> Any:
    """A text, a claim or one of a choice."""
    hint = str if key == "like" else get_type_hints(Arm)[key]
    choice = next((one for one in (hint, *get_args(hint)) if isinstance(one, type) and issubclass(one, StrEnum)), None)
    if choice is not None:
        if value not in list(choice):
            raise ConfigError(f"{label}: [{name}] {key} is {value!r}; choose {', '.join(choice)}")
        return choice(value)
    if type(value) is not hint:
        raise ConfigError(f"{label}: [{name}] {key} must be {_KINDS[hint]}, not {value!r}")
    return value


_KINDS = {str: "a text", bool: "true or false"}


def _overlay(tables: Tables, other: Tables) -> None:
    """Lays the keys of another file over those that are there."""
    for name, table in other.items():
        tables[name] = _merged(tables.get(name, {}), table)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of both; settings and space setting by setting, of the rest the upper one."""
    merged = {**below, **above}
    for key in ("settings", "space"):
        if key in merged:
            merged[key] = {**below.get(key, {}), **above.get(key, {})}
    return merged


def _resolved(
    name: str, tables: Tables, for_all: Mapping[str, Any], label: str, followers: tuple[str, ...] = ()
) -> dict[str, Any]:
    """An arm's keys with those of the arms it is like below them."""
    if name in followers:
        raise ConfigError(f"{label}: {' is like '.join((*followers, name))}; one of them must stand on its own")
    table = dict(tables[name])
    like = table.pop("like", "")
    if not like:
        return _merged(for_all, table)
    if like not in tables:
        raise ConfigError(f"{label}: [{name}] is like '{like}', which is no arm{suggest(like, tables)}")
    return _merged(_resolved(like, tables, for_all, label, (*followers, name)), table)


def _left_out_in_vain(arm: Arm) -> list[str]:
    """Keys that leave out what the arm's module does not read anyway."""
    read = {Module.NONE: (), Module.KAR: ("reads_user",), Module.MSD: ("reads_user", "reads_context", "fuses_history")}
    every = read[Module.MSD]
    return [key for key in every if not getattr(arm, key) and key not in read[arm.module]]


def _check(arm: Arm, arms: Mapping[str, Arm], label: str) -> None:
    """What does not go together."""
    teacher = arms.get(arm.learns_from)
    has_module = arm.module is not Module.NONE
    problems = [
        (has_module and arm.vectors is None, f"has module = '{arm.module}' and no vectors; add vectors"),
        (not has_module and arm.vectors is not None, f"has vectors = '{arm.vectors}' and no module to read them"),
        (not has_module and arm.injection is not Injection.INPUT, "has an injection and no module to inject"),
        *((True, f"leaves out what it does not read: {left} = false") for left in _left_out_in_vain(arm)),
        (
            bool(arm.learns_from) and teacher is None,
            f"learns from '{arm.learns_from}', which is no arm{suggest(arm.learns_from, arms)}",
        ),
        (
            teacher is not None and teacher.module is Module.NONE,
            f"learns from {arm.learns_from}, which reads no vectors and so knows no more than it does",
        ),
        (bool(arm.learns_from) and has_module, "learns from another arm and has a module; it is served without text"),
    ]
    for is_wrong, sentence in problems:
        if is_wrong:
            raise ConfigError(f"{label}: [{arm.name}] {sentence}")
