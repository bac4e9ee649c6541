"""Encoders: what is known without a model, engines that agree, users as behaviours."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from msd_models import engine_choice
from msd_models.behaviours import BehaviourReader, Behaviours
from msd_models.encoders import WINDOW_TEXTS, StudentEncoder, make_encoder
from msd_models.engines import ModelReading
from msd_models.language_model import MINILM, load_tokenizer, model_folder
from msd_models.plain_engine import PlainEngine
from msd_models.student_prompt import prompt_ids
from pipeline.config import TextVectors, Vectors
from pipeline.errors import ConfigError

DIM = 96
"""Of the tiny random student."""
FLOAT32 = Vectors(dtype="float32")
BEHAVIOURS = replace(FLOAT32, mode="behaviours", behaviour_layers=1)
TEXTS = ["gliders 0", "", "x " * 300, "naïve ✓ 漢字 \u202e\x00 👩‍👩‍👧", "<|im_end|> drums", "drums\n\n\nand more 1"] * 3
HISTORIES = [
    Behaviours(profile="profile: age: 30", items=("gliders 0", "drums 1", "gliders 0"), labels=(1, 0, 1)),
    Behaviours(profile="", items=("drums 1",), labels=(1,)),
    Behaviours(profile="", items=("drums 1",), labels=(0,)),
    Behaviours(profile="", items=(), labels=()),
]


def cosines(one, other):
    return (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


def test_space_and_dimension_are_known_without_any_weights(student):
    encoder = make_encoder(Vectors(), student)
    assert (encoder.engine, encoder.dimension) == (None, DIM)
    assert len(encoder.space_id) == 16
    assert encoder.encode([], keep_end=False).shape == (0, DIM)
    assert encoder.engine is None


def test_making_an_encoder_imports_no_transformers(student):
    script = (
        "import sys; from pathlib import Path; from msd_models.encoders import make_encoder;"
        "from pipeline.config import Vectors; from pipeline.storage import Dataset;"
        f"d = Dataset(name='student', fingerprint='0' * 16, folder=Path({str(student.folder)!r}), schema=None);"
        "print(make_encoder(Vectors(), d).space_id, 'transformers' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.split() == [make_encoder(Vectors(), student).space_id, "False"]


def test_reading_names_how_texts_are_cut_and_nothing_that_cannot_matter(student):
    readings = {
        max_tokens: make_encoder(replace(FLOAT32, max_tokens=max_tokens), student).reading for max_tokens in (64, 65)
    }
    assert readings[64] != readings[65]
    assert (
        make_encoder(replace(FLOAT32, max_tokens=64, engine="plain", batch_tokens=3), student).reading == readings[64]
    )


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("keep_end", [False, True])
def test_engines_agree(student, pooling, keep_end):
    plain, packed = (
        StudentEncoder(student, replace(FLOAT32, engine=name, pooling=pooling)) for name in ("plain", "packed")
    )
    wanted = plain.encode(TEXTS, keep_end=keep_end)
    np.testing.assert_allclose(packed.encode(TEXTS, keep_end=keep_end), wanted, atol=2e-5)
    for dtype, least in (("bfloat16", 0.999), ("int8", 0.97)):
        narrow = StudentEncoder(student, replace(FLOAT32, engine="packed", pooling=pooling, dtype=dtype))
        assert cosines(narrow.encode(TEXTS, keep_end=keep_end), wanted).min() > least


def test_windows_change_nothing(student):
    words = [f"drums {number % 37}" for number in range(WINDOW_TEXTS + 5)]
    made = StudentEncoder(student, replace(FLOAT32, engine="packed")).encode(words, keep_end=False)
    few = StudentEncoder(student, replace(FLOAT32, engine="plain")).encode(words[:37], keep_end=False)
    np.testing.assert_allclose(made, few[np.arange(len(words)) % 37], atol=2e-5)


def test_tokens_are_counted_as_they_are_read(student):
    for config, dataset in ((FLOAT32, student), (TextVectors(dtype="float32", max_tokens=20), None)):
        encoder = make_encoder(config, dataset)
        counts = encoder.count_tokens(TEXTS, keep_end=True)
        assert max(counts) == config.max_tokens
        assert encoder.tokens_read == 0
        encoder.encode(TEXTS, keep_end=True)
        assert encoder.tokens_read == sum(counts)


def test_a_closed_encoder_loads_again(student):
    encoder = StudentEncoder(student, FLOAT32)
    before = encoder.encode(TEXTS, keep_end=False)
    encoder.close()
    encoder.close()
    np.testing.assert_array_equal(encoder.encode(TEXTS, keep_end=False), before)


def test_auto_tries_each_engine_once_and_says_which_it_took(student, capsys):
    texts = [f"drums and gliders and more of them {number}" for number in range(5000)]
    encoder = StudentEncoder(student, FLOAT32)
    made = encoder.encode(texts, keep_end=False)
    encoder.encode(texts, keep_end=False)
    said = capsys.readouterr().err
    assert said.count("engine:") == 1
    assert "tok/s" in said
    plain = StudentEncoder(student, replace(FLOAT32, engine="plain")).encode(texts, keep_end=False)
    np.testing.assert_allclose(made, plain, atol=2e-5)


def test_auto_takes_transformers_for_a_model_that_cannot_be_packed(capsys):
    """MiniLM stands for any model that is not built like Llama."""
    reading = ModelReading(
        folder=model_folder(MINILM),
        dtype=engine_choice.torch.float32,
        pooling="mean",
        instruction=(101,),
        max_tokens=32,
        batch_tokens=1024,
    )
    few, many = [[101, 2054, 102]], [[101, 2054, 102]] * 20_000
    assert isinstance(engine_choice.open_engine("auto", reading, few), PlainEngine)
    assert "is not built like Llama" in capsys.readouterr().err
    assert isinstance(engine_choice.open_engine("auto", reading, many), PlainEngine)
    assert "packed left out" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="engine = packed cannot read"):
        engine_choice.open_engine("packed", reading, few)


def test_a_mode_is_a_space_of_its_own_and_text_is_the_space_it_was(student):
    spaces = [make_encoder(config, student).space_id for config in (FLOAT32, BEHAVIOURS)]
    assert len(set(spaces)) == 2
    assert make_encoder(replace(FLOAT32, behaviour_layers=2, engine="plain"), student).space_id == spaces[0]


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_engines_agree_on_behaviours(student, pooling):
    config = replace(BEHAVIOURS, pooling=pooling)
    plain, packed = (StudentEncoder(student, replace(config, engine=name)) for name in ("plain", "packed"))
    wanted = plain.encode_histories(HISTORIES)
    np.testing.assert_allclose(packed.encode_histories(HISTORIES), wanted, atol=2e-5)
    assert wanted.shape == (4, DIM)
    assert np.abs(wanted[1] - wanted[2]).max() > 1e-3, "a skipped item reads like a clicked one"
    assert np.linalg.norm(wanted, axis=1).min() > 0


def test_each_behaviour_is_read_once_and_few_are_kept(student):
    tokenizer = prompt_ids(load_tokenizer(student.folder / "model"))
    encoder = StudentEncoder(student, BEHAVIOURS)
    wanted = encoder.encode_histories(HISTORIES)
    read: list[str] = []

    def prompts(texts):
        read.extend(texts)
        return tokenizer.of_all(texts, max_tokens=128, keep_end=False)

    reader = BehaviourReader(encoder.engine, prompts, max_states=3)
    for _ in range(2):
        np.testing.assert_allclose(reader.encode(HISTORIES), wanted, atol=2e-5)
        assert len(reader.states) == 3
    assert read[:5] == ["profile: age: 30", "gliders 0", "drums 1 (skipped)", "drums 1", ""]
    assert len(read) < 10, "nothing was kept"


def test_wrong_settings_end_in_a_sentence(student):
    with pytest.raises(ConfigError, match="engine 'cuda' is unknown; choose auto, packed, plain, vllm"):
        make_encoder(replace(FLOAT32, engine="cuda"), student)
    with pytest.raises(ConfigError, match="choose text or behaviours"):
        make_encoder(replace(FLOAT32, mode="sound"), student)
    with pytest.raises(ConfigError, match="mode = behaviours, not 'text'"):
        make_encoder(FLOAT32, student).encode_histories(HISTORIES)
    with pytest.raises(ConfigError, match="a sentence encoder reads with mode = text"):
        make_encoder(TextVectors(engine="packed"), None)
    with pytest.raises(ConfigError, match="plain has no int8"):
        make_encoder(replace(FLOAT32, dtype="int8", engine="plain"), student).encode(["a"], keep_end=False)
    for layers in (0, 3):
        with pytest.raises(ConfigError, match="behaviour_layers"):
            make_encoder(replace(BEHAVIOURS, behaviour_layers=layers), student)
