"""The kept epoch: by each way of choosing, and what is said where there is nothing to choose by."""

from dataclasses import replace

import pytest
from click_world import make_world

from msd_models.student import distill
from pipeline import schemas
from pipeline.errors import StageError


def test_each_way_of_choosing_keeps_its_best_epoch(distilled, tiny_settings, save):
    world, _ = make_world(save)
    settings = replace(tiny_settings, epochs=4, curve=("nll", "f1", "auc"))
    for choose_by in ("nll", "f1", "auc", "last"):
        details = distilled(replace(settings, choose_by=choose_by), **world).details
        curve = details["curve"]
        assert [set(entry) for entry in curve] == [{"epoch", "nll", "f1", "auc"}] * 4
        kept = curve[details["chosen_epoch"] - 1]
        if choose_by == "last":
            assert details["chosen_epoch"] == 4
        elif choose_by == "nll":
            assert kept["nll"] == min(entry["nll"] for entry in curve)
        else:
            assert kept[choose_by] == max(entry[choose_by] for entry in curve)


def test_nothing_to_choose_by_is_a_sentence(save, teacher_rows, tiny_settings, log, tmp_path):
    few = replace(tiny_settings, epochs=1, choosing_share=0.0, holdout_share=0.2)
    outputs = save("teacher_outputs", schemas.TEACHER_OUTPUTS, teacher_rows[:8])
    with pytest.raises(StageError, match="choose_by = nll wants rows for choosing, and there are none"):
        distill(few, tmp_path / "a", outputs, **log)
    with pytest.raises(StageError, match="choose_by = auc wants clicks and impressions"):
        distill(replace(few, choose_by="auc"), tmp_path / "b", outputs, **log)
