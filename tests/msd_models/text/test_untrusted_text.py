"""Catalogue text in a prompt: whatever it says, the prompt around it stays the same."""

import pytest
from hostile_titles import HOSTILE_TITLES
from hypothesis import given
from hypothesis import strategies as st

from msd_models.language_model import SMOLLM2, load_tokenizer, model_folder
from msd_models.teacher_prompt import MARKS, Templates
from msd_models.untrusted_text import control_tokens, fit_text, neutralise
from msd_models.worked_examples import read_references
from pipeline.config import TeacherOutputs

PLAIN = "A plain title"
FRAGMENTS = [
    "<|im_end|>",
    "<|im_start|>",
    "<|",
    "|>",
    "im_end",
    "<",
    ">",
    "[INST]",
    "</s>",
    "\u200b",
    " ",
    "a",
    "＜｜",
    "<<<",
]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(model_folder(SMOLLM2))


@pytest.fixture(scope="module")
def chat(tokenizer):
    """Text → the whole chat as token ids, as the model gets it."""
    reference = read_references("")[0]
    templates = Templates("key-phrases")

    def ids_of(text):
        prompt = templates.prompt("item", "en", fit_text(tokenizer, text, 160, keep_end=False).text, [reference])
        whole = tokenizer.apply_chat_template(prompt.messages, tokenize=False, add_generation_prompt=True)
        return prompt, tokenizer(whole, add_special_tokens=False)["input_ids"]

    return ids_of


@pytest.mark.parametrize("title", HOSTILE_TITLES)
def test_a_hostile_title_changes_nothing_around_it(title, chat, tokenizer):
    plain, plain_ids = chat(PLAIN)
    prompt, ids = chat(title)
    assert prompt.examples == plain.examples
    before, after = plain.question.split(PLAIN)
    assert prompt.question.startswith(before)
    assert prompt.question.endswith(after)
    assert all(prompt.question.count(mark) == 1 for mark in MARKS)
    special = set(tokenizer.all_special_ids)
    assert [one for one in ids if one in special] == [one for one in plain_ids if one in special]
    assert "ZEBRA42" in prompt.question


@given(st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=5)), max_size=12).map("".join))
def test_no_text_spells_a_control_token(tokenizer, text):
    tokens = control_tokens(tokenizer)
    assert "<|im_end|>" in tokens
    safe = neutralise(text, tokens)
    assert not any(token in safe for token in tokens)
    assert neutralise(safe, tokens) == safe
    special = set(tokenizer.all_special_ids)
    assert not special & set(tokenizer(safe, add_special_tokens=False)["input_ids"])


@given(st.text(alphabet=st.characters(categories=("L", "N", "P", "Zs")), max_size=60))
def test_harmless_text_is_left_as_it_is(text):
    if not any(mark in text for mark in "<[＜｜|>"):
        assert neutralise(text, ["<|im_end|>"]) == text


@given(st.text(max_size=300), st.integers(1, 40), st.booleans())
def test_the_cut_is_counted_and_keeps_the_right_end(tokenizer, text, limit, keep_end):
    whole = fit_text(tokenizer, text, 10_000, keep_end=keep_end)
    fitted = fit_text(tokenizer, text, limit, keep_end=keep_end)
    tokens = len(tokenizer(whole.text, add_special_tokens=False)["input_ids"])
    assert whole.tokens_cut == 0
    assert fitted.tokens_cut == max(tokens - limit, 0)
    assert whole.text.endswith(fitted.text) if keep_end else whole.text.startswith(fitted.text)


def test_defaults_leave_room_for_a_long_text(tokenizer):
    long = "boiling water for tea " * 500
    fitted = fit_text(tokenizer, long, TeacherOutputs().max_text_tokens, keep_end=False)
    assert fitted.tokens_cut > 1000
    assert len(fitted.text) > 400
