"""A language model cut in two gives the vectors it gives in one piece, and only its upper adapters learn."""

from dataclasses import replace

import pytest
import torch
from cut_models import CONFIG, IDS, cut, make_model, padded, plain, stir

from msd_models.upper_layers import check_parts, decoder_of, with_upper_adapters
from pipeline.errors import ConfigError


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("adapted_layers", [1, 2, 3])
@pytest.mark.parametrize("kind", ["Llama", "Qwen2", "Qwen3"])
def test_two_parts_are_the_whole(kind, adapted_layers, pooling):
    model = stir(with_upper_adapters(make_model(kind), replace(CONFIG, adapted_layers=adapted_layers)))
    decoder, lower, upper = cut(model, adapted_layers, pooling)
    ids_BT, lengths_B = padded()
    found = upper(lower(ids_BT).clone(), lengths_B)
    torch.testing.assert_close(found, plain(decoder, pooling), atol=1e-5, rtol=1e-5)
    check_parts(decoder, lower, upper, IDS)


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("adapted_layers", [1, 2])
def test_adapters_get_the_gradient_of_the_whole_model_and_nothing_else_gets_one(adapted_layers, pooling):
    model = stir(with_upper_adapters(make_model().double(), replace(CONFIG, adapted_layers=adapted_layers))).double()
    decoder, lower, upper = cut(model, adapted_layers, pooling)
    weight_BD = torch.randn(len(IDS), 24, dtype=torch.float64)
    learning = {name: one for name, one in model.named_parameters() if one.requires_grad}

    def gradients(vectors_BD):
        model.zero_grad()
        (torch.tanh(vectors_BD.double()) * weight_BD).sum().backward()
        assert all(one.grad is None for one in model.parameters() if not one.requires_grad)
        return {name: one.grad.clone() for name, one in learning.items()}

    ids_BT, lengths_B = padded()
    found, wanted = gradients(upper(lower(ids_BT).clone(), lengths_B)), gradients(plain(decoder, pooling))
    assert all(f"layers.{number}." not in name for name in learning for number in range(3 - adapted_layers))
    assert len(learning) == adapted_layers * 7 * 2
    for name, gradient in wanted.items():
        assert gradient.abs().max() > 0, name
        # Pooled vectors are float32 on their way out.
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-5)


def test_adapters_start_from_the_very_model():
    model = make_model()
    before = plain(decoder_of(model), "last").detach()
    adapted = with_upper_adapters(model, CONFIG)
    torch.testing.assert_close(plain(decoder_of(adapted), "last"), before, atol=0, rtol=0)


def test_adapters_come_from_the_seed_and_leave_the_callers_generator_alone():
    models = [make_model() for _ in range(3)]
    torch.manual_seed(7)
    wanted = torch.rand(1)
    torch.manual_seed(7)
    first, second, third = (
        torch.cat([weight.flatten() for name, weight in adapted.named_parameters() if "lora_A" in name])
        for adapted in (
            with_upper_adapters(model, replace(CONFIG, seed=s)) for s, model in zip((1, 1, 2), models, strict=True)
        )
    )
    assert torch.equal(torch.rand(1), wanted)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_a_model_that_scales_what_enters_its_layers_is_refused():
    model = with_upper_adapters(make_model("Granite", embedding_multiplier=3.0), CONFIG)
    with pytest.raises(ConfigError, match="max_steps=0"):
        check_parts(*cut(model, 1, "mean"), IDS)


def test_a_model_of_other_parts_is_refused():
    from transformers import GPT2Config, GPT2LMHeadModel

    with pytest.raises(ConfigError, match="GPT2LMHeadModel"):
        decoder_of(GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=16)))


@pytest.mark.parametrize("changes", [{"adapted_layers": 0}, {"adapted_layers": 4}, {"lora_rank": 0}])
def test_settings_out_of_range_are_named(changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        with_upper_adapters(make_model(), replace(CONFIG, **changes))
