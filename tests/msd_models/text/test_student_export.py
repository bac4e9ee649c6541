"""The exported folder in other libraries: plain text in, the same ids and the same vectors as our own encoder."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from msd_models.encoders import StudentEncoder
from msd_models.language_model import load_causal, load_tokenizer
from msd_models.student_export import export_model
from msd_models.student_prompt import prompt_ids
from pipeline.config import Vectors

TEXTS = ["gliders 0", "drums and more 1\ncolour: blue", "ropes " * 300, "naïve ✓ 漢字 lanterns", "a  b\n\nc "]
TOLERANCE = 2e-3
"""Largest difference of any element in float32, where elements are of the order of one: sums run in other orders."""


@pytest.fixture(scope="module")
def folder(student):
    return student.folder / "model"


@pytest.fixture(scope="module")
def vectors(student):
    return StudentEncoder(student, Vectors(dtype="float32", pooling="last")).encode(TEXTS, keep_end=False)


def assert_same(found, wanted):
    cosine = (found * wanted).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)
    assert cosine.min() >= 0.999
    assert np.abs(found - wanted).max() <= TOLERANCE


def test_plain_text_becomes_our_ids_and_ours_are_not_doubled(folder):
    tokenizer = load_tokenizer(folder)
    prompt = prompt_ids(tokenizer)
    for text in TEXTS:
        cut = tokenizer(text, truncation=True, max_length=128)["input_ids"]
        assert cut == prompt.of(text, max_tokens=128, keep_end=False)
    tokenizer.truncation_side = "left"
    assert tokenizer(TEXTS[2], truncation=True, max_length=60)["input_ids"] == prompt.of(
        TEXTS[2], max_tokens=60, keep_end=True
    )


def test_transformers_reads_the_same_vectors(folder, vectors):
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for text in TEXTS:
        with torch.no_grad():
            ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=128)
            found.append(model(**ids).last_hidden_state[0, -1].numpy())
    assert_same(np.stack(found), vectors)


def test_sentence_transformers_reads_the_same_vectors(folder, vectors):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    assert model.max_seq_length == Vectors().max_tokens
    assert_same(model.encode(TEXTS, batch_size=2, show_progress_bar=False), vectors)


@pytest.mark.vllm
@pytest.mark.xdist_group("vllm")
def test_vllm_reads_the_same_vectors(folder, vectors, vllm_worker, tmp_path):
    short = [number for number, text in enumerate(TEXTS) if len(text) < 100]
    out = tmp_path / "vectors.json"
    words = (str(folder), json.dumps([TEXTS[number] for number in short]), str(out))
    done = subprocess.run(
        [sys.executable, *vllm_worker("embed_with_vllm", *words)],
        env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same(np.array(json.loads(out.read_text()), dtype=np.float32), vectors[short])


def test_exporting_again_changes_nothing(folder, tmp_path):
    model, tokenizer = load_causal(folder, torch.float32), load_tokenizer(folder)
    export_model(model, tokenizer, tmp_path / "again", torch.float32)
    for name in ("model.safetensors", "tokenizer.json", "modules.json", "1_Pooling/config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), name


def test_the_card_says_where_the_student_comes_from(folder, student, teacher_outputs):
    card = (folder / "README.md").read_text()
    details = student.details
    for fact in (
        "tiny-random",
        "item.en@00000000",
        teacher_outputs.fingerprint,
        f"{details['train_rows']} trained on",
        f"{details['f1_micro']:.3f}",
        "licence",
    ):
        assert fact in card
    assert card.startswith("---\nlibrary_name: sentence-transformers")
    assert json.loads((folder / "modules.json").read_text())[1]["type"].endswith("Pooling")
