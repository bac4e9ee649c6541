"""What docs/arms.md shows is what there is."""

import re
import tomllib
from dataclasses import fields
from pathlib import Path

from msd_models.arms import Arm, Backbone, Injection, Module
from msd_models.arms_file import read_arms
from msd_models.vector_tables import VectorSource
from pipeline.config import CtrModel

PAGE = (Path(__file__).parents[2] / "docs" / "arms.md").read_text(encoding="utf-8")


def named(text):
    return set(re.findall(r"`([a-z0-9_…]+)`", text))


def section(title):
    return PAGE.split(f"## {title}\n")[1].split("\n## ")[0]


def test_the_example_is_read_as_it_stands(tmp_path):
    (snippet,) = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "mine.toml").write_text(snippet, encoding="utf-8")
    arms = read_arms(str(tmp_path / "mine.toml"))
    assert set(tomllib.loads(snippet)) <= set(arms)
    assert arms["plain"].learns_from == "msd_deepfm"
    assert (arms["msd_deepfm"].module, arms["msd_deepfm"].vectors) == (Module.MSD, VectorSource.TUNED)


def test_every_built_in_arm_is_in_the_table():
    table = named(PAGE.split("## Your own")[0])
    families = tuple(name.rstrip("…") for name in table if name.endswith("…"))
    assert all(arm in table or arm.startswith(families) for arm in read_arms())
    assert {"deepfm", "elec_vanilla"} <= table


def test_every_key_and_choice_is_told():
    told = named(section("Your own"))
    assert {field.name for field in fields(Arm)} - {"name", "settings", "space"} <= told
    for choice in (Backbone, Module, Injection, VectorSource):
        assert {str(one) for one in choice} <= told


def test_every_setting_that_is_named_exists():
    cells = re.findall(r"^\|[^|]*\|([^|]*)\|", section("What the papers leave open"), flags=re.MULTILINE)
    told = set().union(*(named(cell) for cell in cells))
    assert len(told) > 15
    assert told <= {field.name for field in fields(CtrModel)} | {"setting"}
