"""Arms from TOML: what the built-in ones are, how a user's file changes them, and what it is told where it is wrong."""

from contextlib import suppress
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd_models.arms import NOT_OF_AN_ARM, Backbone, Injection, Module, settings_of
from msd_models.arms_file import read_arms
from msd_models.vector_tables import VectorSource
from pipeline.config import CtrModel
from pipeline.errors import ConfigError


@pytest.fixture
def arms_of(tmp_path):
    """Reads the built-in arms below a user's file with this text."""

    def read(text):
        path = tmp_path / "mine.toml"
        path.write_text(text, encoding="utf-8")
        return read_arms(str(path))

    return read


def test_every_default_arm_of_the_stage_is_there_and_every_arm_is_told_about():
    arms = read_arms()
    assert set(CtrModel().arms) <= set(arms)
    assert all(arm.summary and arm.name == name for name, arm in arms.items())
    assert all(arm.space.keys() >= {"learning_rate", "dropout"} for arm in arms.values())


def test_semantic_arms_of_one_module_differ_in_their_vectors_alone():
    """Same backbone, same module, same options, same space: or a gain would be the architecture's."""
    arms = read_arms()
    compared = [arms[name] for name in ("random_vectors", "shuffled_vectors", "raw_text", "msd_frozen", "msd")]
    assert len({arm.vectors for arm in compared}) == 5
    facts = [{one.name: getattr(arm, one.name) for one in fields(arm)} for arm in compared]
    for one in facts:
        for name in ("name", "summary", "vectors"):
            one.pop(name)
    assert all(one == facts[0] for one in facts)


def test_a_users_file_changes_an_arm_key_by_key_and_makes_new_ones(arms_of):
    arms = arms_of(
        """
        [din]
        summary = "mine"
        [din.settings]
        learning_rate = 1
        hidden = [8, 4]
        [wide]
        like = "din"
        backbone = "dcnv2"
        settings = { dropout = 0.3 }
        [wide.space]
        hidden = { choices = [[8], [16, 8]] }
        """
    )
    din, wide = arms["din"], arms["wide"]
    assert (din.summary, din.backbone, wide.summary, wide.backbone) == ("mine", Backbone.DIN, "mine", Backbone.DCNV2)
    assert din.settings == {"learning_rate": 1.0, "hidden": (8, 4)}
    assert isinstance(din.settings["learning_rate"], float)
    assert wide.settings == {"learning_rate": 1.0, "hidden": (8, 4), "dropout": 0.3}
    assert wide.space["hidden"] == {"choices": ((8,), (16, 8))}
    assert wide.space["learning_rate"] == read_arms()["din"].space["learning_rate"]
    assert arms["msd"] == read_arms()["msd"]


def test_what_a_file_changes_of_an_arm_holds_for_those_that_are_like_it(arms_of):
    arms = arms_of("[msd.settings]\ntop_k = 2\n[default.space]\nbatch_size = { low = 64, high = 512 }")
    assert arms["msd_no_user"].settings == {"top_k": 2}
    assert arms["raw_text"].settings == {"top_k": 2}
    assert arms["din"].settings == {}
    assert all(arm.space["batch_size"] == {"low": 64, "high": 512, "log": False} for arm in arms.values())


def test_an_arms_own_settings_lie_over_the_stages(arms_of):
    config = CtrModel(dropout=0.3, top_k=7)
    arms = arms_of("[din.settings]\ndropout = 0.0")
    assert settings_of(arms["din"], config).dropout == 0.0
    assert settings_of(arms["din"], config).top_k == 7
    assert settings_of(arms["dcnv2"], config) == config


def test_values_are_of_their_kinds():
    gain = read_arms()["elec_gain"]
    assert (gain.injection, gain.module, gain.vectors) == (Injection.HIGH, Module.MSD, VectorSource.TUNED)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("din = 3", r"mine.toml: din must be a table"),
        ("[Din]\nsummary = ''", r"\[Din\] names files too"),
        ("[din", r"not valid TOML"),
        ("[default]\nbackbone = 'din'", r"\[default\] has space alone, not backbone"),
        ("[din]\nbakbone = 'din'", r"\[din\] has no key 'bakbone'; did you mean 'backbone'"),
        ("[din]\nname = 'x'", r"has no key 'name'"),
        ("[din]\nbackbone = 'dinn'", r"backbone is 'dinn'; choose deepfm, din, dcnv2, mlp"),
        ("[din]\nbackbone = 3", r"backbone is 3; choose"),
        ("[msd]\nvectors = 'mine'", r"vectors is 'mine'; choose student, tuned"),
        ("[msd]\nreads_user = 'no'", r"reads_user must be true or false, not 'no'"),
        ("[msd]\nsummary = 3", r"summary must be a text, not 3"),
        ("[x]\nlike = 'dinn'", r"\[x\] is like 'dinn', which is no arm; did you mean 'din'"),
        ("[x]\nlike = 'y'\n[y]\nlike = 'x'", r"x is like y is like x; one of them must stand"),
        ("[x]\nlike = 'x'", r"x is like x"),
        ("[din]\nsettings = 3", r"settings must be a table: write \[din.settings\]"),
        ("[din.settings]\nlerning_rate = 1", r"\[din.settings\] has no setting 'lerning_rate'; did you mean 'learning"),
        ("[din.settings]\nseeds = [1]", r"cannot have 'seeds', which all arms share; set ctr_model.seeds"),
        ("[din.settings]\nhidden = ['a']", r"\[din.settings\] hidden must be a whole number, not 'a'"),
        ("[din.space]\ntop_j = { low = 1, high = 2 }", r"\[din.space\] has no setting 'top_j'; did you mean 'top_k'"),
        ("[din.space]\nthreads = { low = 1, high = 2 }", r"cannot have 'threads'"),
        ("[din.space]\ntop_k = 3", r"top_k must be { low = …, high = … } or { choices = \[…\] }, not 3"),
        ("[din.space]\ntop_k = { low = 1 }", r"must be { low"),
        ("[din.space]\ntop_k = { low = 1, high = 2, lg = true }", r"has no 'lg'; did you mean 'log'"),
        ("[din.space]\ntop_k = { choices = [1], low = 2 }", r"has no 'low'; it has choices"),
        ("[din.space]\ntop_k = { choices = [] }", r"choices must be a list with one value"),
        ("[din.space]\ntop_k = { choices = [1.5] }", r"top_k must be a whole number, not 1.5"),
        ("[din.space]\ntop_k = { low = 1.5, high = 2 }", r"top_k must be a whole number, not 1.5"),
        ("[din.space]\ntop_k = { low = 2, high = 2 }", r"goes from 2 to 2; low must be below high"),
        ("[din.space]\ndropout = { low = nan, high = 2 }", r"low must be below high"),
        ("[din.space]\ndropout = { low = 0, high = 1, log = true }", r"starts at 0.0; a range on a log scale"),
        ("[din.space]\ndropout = { low = 0, high = 1, log = 1 }", r"log must be true or false, not 1"),
        ("[din.space]\nhidden = { low = 1, high = 2 }", r"hidden is no number and has no range"),
        ("[din.space]\nmask = { low = 1, high = 2 }", r"mask is no number and has no range"),
        ("[x]\nmodule = 'msd'", r"\[x\] has module = 'msd' and no vectors"),
        ("[x]\nvectors = 'student'", r"\[x\] has vectors = 'student' and no module to read them"),
        ("[x]\ninjection = 'high'", r"\[x\] has an injection and no module"),
        ("[din]\nreads_user = false", r"\[din\] leaves out what it does not read: reads_user = false"),
        ("[kar]\nfuses_history = false", r"\[kar\] leaves out what it does not read: fuses_history = false"),
        ("[x]\nlearns_from = 'mds'", r"\[x\] learns from 'mds', which is no arm; did you mean 'msd'"),
        ("[x]\nlearns_from = 'din'", r"\[x\] learns from din, which reads no vectors"),
        ("[x]\nlearns_from = 'x'", r"\[x\] learns from x, which reads no vectors"),
        (
            "[x]\nlearns_from = 'msd'\nmodule = 'msd'\nvectors = 'student'",
            r"\[x\] learns from another arm and has a mod",
        ),
    ],
)
def test_a_wrong_file_says_what_was_wanted(arms_of, text, message):
    with pytest.raises(ConfigError, match=message):
        arms_of(text)


def test_a_file_that_is_not_there_or_no_text_is_said_to_be(tmp_path):
    with pytest.raises(ConfigError, match="is not a file"):
        read_arms(str(tmp_path / "none.toml"))
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"bytes.toml is not UTF-8"):
        read_arms(str(tmp_path / "bytes.toml"))


KEYS = st.sampled_from(["backbone", "module", "vectors", "like", "learns_from", "reads_user", "injection", "settings"])
VALUES = st.sampled_from(["'din'", "'msd'", "'student'", "'none'", "true", "3", "{ top_k = 2 }", "'high'", "[]"])


@given(st.dictionaries(KEYS, VALUES, max_size=5))
@settings(max_examples=150, deadline=None)
def test_any_table_is_an_arm_that_goes_together_or_a_sentence(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("arms") / "any.toml"
    path.write_text("[x]\n" + "\n".join(f"{key} = {value}" for key, value in table.items()), encoding="utf-8")
    with suppress(ConfigError):
        arm = read_arms(str(path))["x"]
        assert (arm.module is Module.NONE) == (arm.vectors is None)
        assert not set(arm.settings) & set(NOT_OF_AN_ARM)
