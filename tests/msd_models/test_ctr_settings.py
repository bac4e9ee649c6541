"""Ranges of [ctr_model]: defaults are in them, and what is out of them is said with its name."""

from dataclasses import replace

import pytest

from msd_models.arms import settings_of
from msd_models.arms_file import read_arms
from msd_models.ctr_settings import check_settings
from pipeline.config import CtrModel
from pipeline.errors import ConfigError


def test_every_arms_settings_and_both_ends_of_its_space_are_in_range():
    for arm in read_arms().values():
        config = settings_of(arm, CtrModel())
        check_settings(arm.name, config)
        for setting, space in arm.space.items():
            for value in space.get("choices") or (space["low"], space["high"]):
                check_settings(arm.name, replace(config, **{setting: value}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arms": ()}, r"arms is empty; name one arm at least"),
        ({"seeds": ()}, r"seeds is empty; name one seed at least"),
        ({"mask": "never"}, r"mask is 'never'; choose popular, rare, word2vec, none"),
        ({"fused_events": "some"}, r"fused_events is 'some'; choose liked, all"),
        ({"empty_fusion": "one"}, r"empty_fusion is 'one'; choose target, zero"),
        ({"schedule": "later"}, r"schedule is 'later'; choose gain_first, joint"),
        ({"embedding_optimiser": "sgd"}, r"embedding_optimiser is 'sgd'; choose auto, adam"),
        ({"amp": "fp8"}, r"amp is 'fp8'; choose auto, bfloat16, off"),
        ({"mask_min": 0.5, "mask_max": 0.4}, r"mask_min and mask_max must be shares.*ctr_model.mask_min=…"),
        ({"mask_max": float("nan")}, r"mask_min and mask_max"),
        ({"hidden": ()}, r"hidden must name one width"),
        ({"hidden": (8, 0)}, r"hidden must name one width"),
        ({"shared_experts": 0, "own_experts": 0}, r"are both 0; choose one expert"),
        ({"dropout": 1.0}, r"dropout is 1.0; choose 0 or more, below 1"),
        ({"vector_dropout": float("nan")}, r"vector_dropout is nan"),
        ({"top_k": 0}, r"top_k is 0; choose 1 or more"),
        ({"threads": 0}, r"threads is 0; choose 1 or more"),
        ({"weight_decay": -1.0}, r"weight_decay is -1.0; choose 0 or more"),
        ({"temperature": 0.0}, r"temperature is 0.0; choose a number above 0"),
        ({"learning_rate": float("nan")}, r"learning_rate is nan; choose a number above 0"),
    ],
)
def test_what_is_out_of_range_is_said_with_its_name(change, message):
    with pytest.raises(ConfigError, match=message):
        check_settings("din", replace(CtrModel(), **change))


def test_the_stages_own_settings_belong_to_no_arm():
    with pytest.raises(ConfigError, match=r"^\[ctr_model\] top_k is 0; choose 1 or more; for instance"):
        check_settings("", CtrModel(top_k=0))


def test_a_message_names_the_arm_where_there_are_several():
    with pytest.raises(ConfigError, match=r"\(arm din\); for instance"):
        check_settings("din", CtrModel(top_k=0))
    with pytest.raises(ConfigError, match=r"choose 1 or more; for instance --set ctr_model.top_k=…"):
        check_settings("din", CtrModel(arms=("din",), top_k=0))
