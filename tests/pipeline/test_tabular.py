"""A comparison makes only what its arms read: tabular ones need no language model, others no vectors of other arms."""

from pathlib import Path

import pytest

from pipeline.errors import ConfigError, StageError
from pipeline.runner import make_plan, run
from pipeline.settings import resolve
from pipeline.source import load_source
from pipeline.stages import BY_NAME, READ_FOR, stages_for, with_ancestors
from pipeline.storage import Workspace

SOURCE = '[items]\npath = "items.csv"\n[events]\npath = "events.csv"\n'
VECTORS = READ_FOR["student"] | READ_FOR["tuned"] | READ_FOR["raw_text"]


@pytest.fixture
def plan_with(tmp_path: Path):
    """`plan_with(arms)`: the plan of a comparison of these arms."""
    (tmp_path / "items.csv").write_text("item_id,title\n1,a film\n")
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp\nx,1,1700000000\n")
    (tmp_path / "mine.toml").write_text(SOURCE)

    def _plan(arms: str, *overrides: str):
        source = load_source(str(tmp_path / "mine.toml"))
        settings = resolve("tiny", [f"ctr_model.arms={arms}", *overrides])
        return make_plan(Workspace(tmp_path / "work"), source, settings)

    return _plan


def needed(plan, name="report"):
    return {stage.name for stage in with_ancestors([name], plan.stages)}


def test_tabular_arms_need_no_language_model(plan_with):
    plan = plan_with('["deepfm", "din", "dcnv2"]')
    assert needed(plan).isdisjoint(VECTORS)
    assert needed(plan) >= {"examples", "ctr_records", "audit", "ctr_model", "histories", "context_texts"}
    assert plan.stages["examples"].inputs == ("interactions", "histories")


def test_arms_bring_their_own_vectors_and_no_others(plan_with):
    frozen = needed(plan_with('["din", "msd_frozen"]'))
    assert frozen >= READ_FOR["student"]
    assert frozen.isdisjoint(READ_FOR["tuned"] | READ_FOR["raw_text"])
    assert needed(plan_with('["din", "raw_text"]')) >= READ_FOR["student"] | READ_FOR["raw_text"]
    # A placebo is made of the student's vectors; a vanilla network learns from a gain network that reads tuned ones.
    assert needed(plan_with('["random_vectors"]')) >= READ_FOR["student"]
    assert needed(plan_with('["elec_vanilla"]')) >= READ_FOR["student"] | READ_FOR["tuned"]


def test_the_arms_of_all_sources_have_the_whole_table(plan_with):
    assert stages_for(READ_FOR) == BY_NAME
    plan = plan_with('["din", "msd", "raw_text"]')
    assert plan.stages == BY_NAME
    assert not plan.refused


def test_an_arm_of_a_users_file_counts_by_its_vectors(plan_with, tmp_path):
    (tmp_path / "arms.toml").write_text('[mine]\nmodule = "msd"\nvectors = "raw_text"\n')
    file = f"ctr_model.arms_file={tmp_path / 'arms.toml'}"
    assert needed(plan_with('["mine"]', file)) >= READ_FOR["raw_text"]


def test_another_choice_of_arms_is_another_set_of_examples(plan_with):
    tabular, semantic = (plan_with(arms).fingerprints for arms in ('["din"]', '["din", "msd_frozen"]'))
    for name in ("examples", "ctr_records", "audit", "ctr_model", "report"):
        assert tabular[name] != semantic[name], name
    for name in ("items", "histories", "item_features", "publication"):
        assert tabular[name] == semantic[name], name


def test_what_reads_vectors_is_refused_before_anything_is_made(plan_with):
    plan = plan_with('["din"]')
    for name in ("tuned_student", "canary_model", "tuned_publication"):
        with pytest.raises(StageError, match=r"reads vectors, and none of the arms does.*msd_frozen"):
            run(plan, [name])
    assert not (plan.workspace.root / "items").exists()


def test_an_unknown_arm_is_refused_with_the_call(plan_with):
    with pytest.raises(ConfigError, match="arms names dinn; there are"):
        plan_with('["dinn"]')
