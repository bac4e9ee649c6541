"""The packed engine against transformers' own forward in float32, one text at a time."""

import numpy as np
import pytest
import torch
from cut_models import make_model
from hostile_titles import HOSTILE_TITLES
from hypothesis import given, settings
from hypothesis import strategies as st

from msd_models.engines import ModelReading
from msd_models.language_model import MINILM, SMOLLM2, load_tokenizer, model_folder
from msd_models.packed_attention import FUSED_TOKENS, Layout
from msd_models.packed_engine import PackedEngine
from msd_models.plain_engine import PlainEngine
from msd_models.student_prompt import prompt_ids
from msd_models.token_batches import packed_batches
from pipeline import assets
from pipeline.errors import ConfigError

INSTRUCTION = (5, 9, 2)
TEXTS = [[7], [1, 3, 4, 4], [8, 6], [2, 2, 9, 9], [1, 7, 3, 8, 3, 1, 1, 2, 5], [4, 1, 3, 4], list(range(1, 30))]
LONG = [[(3 * place) % 31 + 1 for place in range(length)] for length in (FUSED_TOKENS + 40, 700, 700, 333, 3)]
MODELS = {
    "Llama": {},
    "Mistral": {"sliding_window": None},
    "Qwen2": {},
    "Qwen3": {"head_dim": 8},
    "llama with biases": {"attention_bias": True},
    "llama in two rotations": {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0}},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Name of a model → its folder; norms and biases are random, which fresh ones are not."""
    made = {}
    for name, changes in MODELS.items():
        kind = name if name in ("Mistral", "Qwen2", "Qwen3") else "Llama"
        model = make_model(kind, max_position_embeddings=2 * FUSED_TOKENS, **changes)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim == 1:
                    weight.add_(torch.randn_like(weight) * 0.3)
        made[name] = tmp_path_factory.mktemp("model")
        model.save_pretrained(made[name])
    return made


def reading(folder, **changes):
    values = {
        "folder": folder,
        "dtype": torch.float32,
        "pooling": "last",
        "instruction": INSTRUCTION,
        "max_tokens": 1024,
        "batch_tokens": 1024,
    }
    return ModelReading(**{**values, **changes})


def prompts(texts, instruction=INSTRUCTION):
    return [[*instruction, *text] for text in texts]


def one_by_one(folder, texts, **changes):
    engine = PlainEngine(reading(folder, **changes))
    instruction = changes.get("instruction", INSTRUCTION)
    return np.concatenate([engine.read([row]) for row in prompts(texts, instruction)])


def cosines(one, other):
    return (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_model_gives_the_vectors_of_a_plain_forward(folders, name, pooling):
    texts = [*TEXTS, *LONG]
    made = PackedEngine(reading(folders[name], pooling=pooling)).read(prompts(texts))
    np.testing.assert_allclose(made, one_by_one(folders[name], texts, pooling=pooling), atol=2e-5)


@settings(max_examples=25, deadline=None)
@given(
    texts=st.lists(st.lists(st.integers(0, 31), min_size=1, max_size=12), max_size=9),
    instruction=st.lists(st.integers(0, 31), max_size=5).map(tuple),
    pooling=st.sampled_from(["last", "mean"]),
    batch_tokens=st.integers(1, 60),
)
def test_neither_lengths_nor_batches_nor_the_instruction_matter(folders, texts, instruction, pooling, batch_tokens):
    changes = {"instruction": instruction, "pooling": pooling}
    made = PackedEngine(reading(folders["Llama"], batch_tokens=batch_tokens, **changes))
    wanted = one_by_one(folders["Llama"], texts, **changes) if texts else np.zeros((0, 24))
    np.testing.assert_allclose(made.read(prompts(texts, instruction)), wanted, atol=2e-5)


@pytest.mark.parametrize(("dtype", "least"), [(torch.bfloat16, 0.999), (torch.float16, 0.999), (torch.int8, 0.98)])
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_narrow_numbers_stay_close(folders, dtype, least, pooling):
    wanted = one_by_one(folders["Llama"], TEXTS, pooling=pooling)
    made = PackedEngine(reading(folders["Llama"], dtype=dtype, pooling=pooling)).read(prompts(TEXTS))
    assert cosines(made, wanted).min() > least


@pytest.fixture(scope="module")
def real_prompts():
    """Real, hostile and odd texts as the student reads them: the instruction's tokens, and whole prompts."""
    prompt = prompt_ids(load_tokenizer(model_folder(SMOLLM2)))
    lines = (assets.locate("movielens-100k") / "ml-100k.item").read_text(encoding="utf-8").splitlines()
    texts = [line.split("\t")[1] for line in lines[1:7]] + list(HOSTILE_TITLES[:2])
    texts += ["", "\u202e\x00 naïve 漢字 👩‍👩‍👧", "long " * 999]
    return tuple(prompt.instruction), prompt.of_all(texts, max_tokens=64, keep_end=False)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_thirty_trained_layers_stay_close_on_real_texts(real_prompts, pooling):
    """The built-in model whole: what a student of a few of its layers rounds away is less."""
    instruction, ids = real_prompts
    same = {"instruction": instruction, "pooling": pooling, "max_tokens": 64}
    wanted = PlainEngine(reading(model_folder(SMOLLM2), **same)).read(ids)
    for dtype, least in ((torch.bfloat16, 0.999), (torch.int8, 0.98)):
        made = PackedEngine(reading(model_folder(SMOLLM2), dtype=dtype, **same)).read(ids)
        assert cosines(made, wanted).min() > least


def test_a_text_alone_and_among_others_is_the_same_text(folders):
    engine = PackedEngine(reading(folders["Llama"], dtype=torch.bfloat16))
    together = engine.read(prompts(TEXTS))
    alone = np.concatenate([engine.read([row]) for row in prompts(TEXTS)])
    assert cosines(together, alone).min() > 0.9999
    np.testing.assert_array_equal(together, engine.read(prompts(TEXTS)))


@pytest.mark.parametrize("engine", [PlainEngine, PackedEngine])
def test_two_parts_of_the_layers_read_like_the_whole(folders, engine):
    """Lower states of every token, taken as a history without instruction, end where the whole model ends."""
    text = [5, 9, 2, 7, 1, 3]
    whole = one_by_one(folders["Llama"], [text], instruction=())
    parts = engine(reading(folders["Llama"], instruction=(), num_upper=2))
    states = parts.lower_states([text[: place + 1] for place in range(len(text))])
    np.testing.assert_allclose(parts.upper_vectors([states]), whole, atol=2e-5)


def test_what_is_not_built_like_llama_is_refused_by_name(folders, tmp_path):
    with pytest.raises(ConfigError, match="is not built like Llama; choose engine = plain"):
        PackedEngine(reading(model_folder(MINILM)))
    sliding = make_model("Mistral", sliding_window=8)
    sliding.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="slides over 8 tokens"):
        PackedEngine(reading(tmp_path))


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 1000))
def test_packed_batches_partition_the_rows_within_the_budget(lengths, budget):
    batches = list(packed_batches(lengths, budget))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or sum(lengths[row] for row in batch) <= budget for batch in batches)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20))
def test_a_layout_knows_every_token_once(lengths):
    layout = Layout.of(lengths, torch.device("cpu"))
    assert layout.text_S.tolist() == [text for text, length in enumerate(lengths) for _ in range(length)]
    assert layout.place_S.tolist() == [place for length in lengths for place in range(length)]
    assert sum(span.num_texts for span in layout.spans) == len(lengths)
    assert [span.tokens.start for span in layout.spans[1:]] == [span.tokens.stop for span in layout.spans[:-1]]
