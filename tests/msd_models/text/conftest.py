"""Small datasets of texts, a student that takes seconds to train, and vLLM's workers without its import."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from preloaded_python import preloaded

from pipeline import config, schemas
from pipeline.storage import Dataset, Outcome, Workspace, commit, write_shard

START = datetime(2024, 1, 1, tzinfo=UTC)
THEMES = {"gliders": "calm flight", "drums": "loud party", "lanterns": "warm evening", "ropes": "steep climb"}
NUM_ITEMS = 48
TINY = config.Student(
    base_model="tiny-random",
    num_layers=2,
    epochs=12,
    batch_size=8,
    learning_rate=3e-3,
    max_holdout_rows=6,
    phrase_threshold=0.75,
    dtype="float32",
    threads=1,
    curve=("nll",),
)

# Products this small wait for a second thread, and spin meanwhile: a training took ten times the processor time.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_settings() -> config.Student:
    return TINY


@pytest.fixture(scope="session")
def save(tmp_path_factory) -> Callable[..., Dataset]:
    """`save(name, schema, rows)` commits rows as a dataset of its own workspace."""

    def _save(name: str, schema: pa.Schema, rows: list[dict[str, Any]]) -> Dataset:
        dataset = Workspace(tmp_path_factory.mktemp(name)).dataset(name, "0" * 16, schema)
        dataset.folder.mkdir(parents=True)
        write_shard(dataset.folder / "part-00000.parquet", pa.Table.from_pylist(rows, schema=schema))
        commit(dataset, Outcome(rows_in=len(rows), rows_ok=len(rows)), {})
        return dataset

    return _save


@pytest.fixture(scope="session")
def item_rows() -> list[dict[str, Any]]:
    words = list(THEMES)
    return [
        {
            "item_id": f"i{number}",
            "title": f"{words[number % 4]} {'and more ' * (number % 5)}{number}",
            "text": f"{words[number % 4]} {'and more ' * (number % 5)}{number}",
            "category": "other",
            "attributes": [("colour", "blue")] if number % 3 else [],
            "available_at": None,
        }
        for number in range(NUM_ITEMS)
    ]


@pytest.fixture(scope="session")
def items(save, item_rows) -> Dataset:
    return save("items", schemas.ITEMS, item_rows)


@pytest.fixture(scope="session")
def item_stats(save, item_rows) -> Dataset:
    rows = [
        {
            "item_id": row["item_id"],
            "exposures": 0,
            "clicks": 0,
            "ctr_shrunk": 0.5,
            "category_ctr": 0.5,
            "exposure_rank": number + 1,
            "first_seen_at": START + timedelta(days=number),
            "counted_until": START,
        }
        for number, row in enumerate(item_rows)
    ]
    return save("item_stats", schemas.ITEM_STATS, rows[::-1])


@pytest.fixture(scope="session")
def teacher_rows(item_rows) -> list[dict[str, Any]]:
    rows = []
    for number, item in enumerate(item_rows):
        word = item["text"].split()[0]
        rejected = number % 16 == 15
        rows.append(
            {
                "prompt_id": f"item:{item['item_id']}",
                "level": "item",
                "entity_id": item["item_id"],
                "stratum": "other",
                "text": item["text"],
                "status": "rejected" if rejected else "ok",
                "reason": "unparsable" if rejected else None,
                "rationale": "",
                "explicit_phrases": [] if rejected else [word],
                "implicit_phrases": [] if rejected else [THEMES[word]],
                "raw_text": "",
                "representative_id": f"item:{item['item_id']}",
                "template_id": "item.en@00000000",
                "reference_ids": ["r"],
                "content_key": f"{number:064x}",
                "attempts": 1,
                "prompt_tokens": 1,
                "output_tokens": 1,
                "text_tokens_cut": 0,
                "moved_to_implicit": 0,
                "moved_to_explicit": 0,
                "unrelated_phrases": 0,
                "repeated_phrases": 0,
            }
        )
    return rows


@pytest.fixture(scope="session")
def teacher_outputs(save, teacher_rows) -> Dataset:
    return save("teacher_outputs", schemas.TEACHER_OUTPUTS, teacher_rows)


@pytest.fixture(scope="session")
def log(save, items, item_stats) -> dict[str, Dataset]:
    """What distill takes besides the teacher's rows; nobody acted."""
    empty = {name: save(name, getattr(schemas, name.upper()), []) for name in ("interactions", "histories")}
    return {"items": items, "item_stats": item_stats, **empty}


@pytest.fixture(scope="session")
def distilled(tmp_path_factory, teacher_outputs, log) -> Callable[..., Dataset]:
    """`distilled(settings, **others)` commits a student of the teacher's rows."""
    from msd_models.student import distill

    def _distilled(settings: config.Student, **others: Any) -> Dataset:
        dataset = Workspace(tmp_path_factory.mktemp("student")).dataset("student", "0" * 16, None)
        dataset.folder.mkdir(parents=True)
        arguments = {"teacher_outputs": teacher_outputs, **log, **others}
        commit(dataset, distill(settings, dataset.folder, **arguments), {})
        return dataset

    return _distilled


@pytest.fixture(scope="session")
def student(distilled) -> Dataset:
    return distilled(TINY)


@pytest.fixture(scope="session")
def vllm_worker(tmp_path_factory) -> Callable[..., tuple[str, ...]]:
    """`vllm_worker(module, …)`: arguments to Python that run it as `-m module …` does, vLLM imported beforehand."""
    from msd_models.vllm_worker import ENVIRONMENT

    modules = ("vllm.entrypoints.llm", "vllm.v1.worker.cpu_worker")
    with preloaded(tmp_path_factory.mktemp("vllm"), modules, ENVIRONMENT) as command:
        yield lambda *words: (*command, *words)


@pytest.fixture(scope="session")
def small_llama(tmp_path_factory) -> Path:
    """A folder with a random two-layer Llama and the built-in model's tokenizer and chat template.

    Two key heads, so that it can be spread over two processes: SmolLM2 has an odd number of heads.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    from msd_models.language_model import SMOLLM2, load_tokenizer, model_folder

    folder = tmp_path_factory.mktemp("small-llama")
    tokenizer = load_tokenizer(model_folder(SMOLLM2))
    torch.manual_seed(0)
    settings = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(settings).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
