"""Settings: what a wrong one is told, and which of them make another dataset."""

from contextlib import suppress
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.settings import digest, identity, presets, resolve
from pipeline.stages import BY_NAME, STAGES


@pytest.mark.parametrize("preset", ["tiny", "small", "full"])
def test_presets_resolve_to_the_declared_types(preset):
    assert preset in presets()
    for name, config in resolve(preset).items():
        assert type(config) is BY_NAME[name].config


def test_every_default_is_of_its_declared_type_and_has_a_sentence():
    for stage in STAGES:
        overrides = [
            f"{stage.name}.{field.name}={toml(field.default)}" for field in fields(stage.config) if field.default != ""
        ]
        assert resolve("small", overrides)[stage.name] == stage.config()


def toml(value):
    if isinstance(value, tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else f"'{value}'" if isinstance(value, str) else repr(value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("student.num_layer=3", r"\[student\] has no setting 'num_layer'; did you mean 'num_layers'\?"),
        ("studnet.num_layers=3", r"no stage 'studnet'; did you mean 'student'\?"),
        ("student.num_layers=three", r"num_layers must be a whole number, not 'three'"),
        ("student.num_layers=3.5", r"num_layers must be a whole number, not 3.5"),
        ("student.num_layers=true", r"num_layers must be a whole number, not True"),
        ("publication.online=1", r"online must be true or false, not 1"),
        ("ctr_model.seeds=[1, 'two']", r"seeds must be a whole number, not 'two'"),
        ("student.base_model=7", r"base_model must be a text, not 7"),
        ("student", r"write stage.key=value"),
        ("student=3", r"write stage.key=value"),
        ("=3", r"write stage.key=value"),
    ],
)
def test_a_wrong_override_says_what_was_wanted(override, message):
    with pytest.raises(ConfigError, match=message):
        resolve("small", [override])


@given(st.text(max_size=20), st.text(max_size=20))
def test_any_override_resolves_or_is_a_sentence(name, value):
    with suppress(ConfigError):
        resolve("small", [f"{name}={value}", f"student.base_model={value}"])


def test_overrides_win_over_the_preset_and_the_last_one_wins():
    config = resolve("tiny", ["student.num_layers=5", "student.num_layers=7", "ctr_model.arms=din"])
    assert config["student"].num_layers == 7
    assert config["ctr_model"].arms == ("din",)
    assert config["student"].epochs == resolve("tiny")["student"].epochs


def test_a_whole_number_stands_for_a_number():
    assert resolve("small", ["item_stats.prior_exposures=3"])["item_stats"].prior_exposures == 3.0
    assert digest(identity(resolve("small", ["item_stats.prior_exposures=3"])["item_stats"])) == digest(
        identity(resolve("small", ["item_stats.prior_exposures=3.0"])["item_stats"])
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[histories]\nembed_grow = 1.0", r"mine.toml: \[histories\] has no setting 'embed_grow'; did you mean"),
        (b"histories = 3", r"histories must be a table"),
        (b"[histories", r"mine.toml: not valid TOML"),
        (b"[histories]\n# \xff\xfe", r"mine.toml is not UTF-8"),
    ],
)
def test_a_wrong_preset_file_is_named(tmp_path, content, message):
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        resolve(str(path))


@pytest.mark.parametrize("preset", ["smal", "nowhere/mine.toml", "", "."])
def test_an_unknown_preset_names_the_known_ones(preset):
    with pytest.raises(ConfigError, match="small, tiny"):
        resolve(preset)


def test_too_few_rounds_for_an_interval_are_refused_before_anything_is_made():
    with pytest.raises(ConfigError, match="bootstrap_rounds is 10, and an interval of 95% needs 40 or more"):
        resolve("tiny", ["report.bootstrap_rounds=10"])


FREE = {
    "how a machine works": {
        "batch_tokens", "concurrency", "data_parallel", "dtype", "endpoint", "engine", "gpu_memory_share",
        "kv_cache_gib", "memory_gib", "panel_rows", "part_rows", "pass_rows", "processes", "shard_rows", "side_by_side",
        "spark_partitions", "tensor_parallel", "threads", "timeout_seconds",
    },
    "when work is saved": {"checkpoint_seconds", "checkpoint_steps"},
    "whether a stage may go on": {
        "max_drift", "max_duplicate_share", "max_mean_cosine", "max_norm_ratio", "max_rejected_share", "max_seconds",
        "max_tokens", "min_coverage", "min_effective_rank",
    },
    "what readers have": {"activate", "grace_hours"},
}  # fmt: skip
FREE_IN_SOME = {"dtype": {"teacher_outputs"}, "max_tokens": {"teacher_outputs"}}
"""Elsewhere these change the result: a student's weights, a vector's text."""


def test_only_settings_that_change_no_result_stay_out_of_fingerprints():
    allowed = set().union(*FREE.values())
    for stage in STAGES:
        free = {field.name for field in fields(stage.config) if not field.metadata.get("identity", True)}
        assert free <= allowed, stage.name
        for name, stages in FREE_IN_SOME.items():
            assert name not in free or stage.name in stages, (stage.name, name)
