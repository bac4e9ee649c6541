"""The built-in model and the teacher under vLLM, as they run."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pyarrow as pa
import pytest
import torch
from hostile_titles import HOSTILE_TITLES
from prompt_rows import prompt_row
from transformers import LlamaConfig, LlamaForCausalLM

from msd_models.answers import MAX_PHRASES
from msd_models.language_model import SMOLLM2, load_causal, load_tokenizer, model_folder
from msd_models.teacher import teach
from msd_models.vllm_generator import VllmGenerator
from pipeline import schemas
from pipeline.config import TeacherOutputs
from pipeline.content_store import ContentStore
from pipeline.errors import ConfigError, ServiceError

TEXTS = ["Amityville 3-D\ngenres: Horror\nyear: 1983", "Grease\ngenres: Comedy Musical Romance\nyear: 1978"]

START_TEACHER = """
import sys
from msd_models.generators import Prompt, Request, Sampling
from msd_models.vllm_generator import VllmGenerator
from pipeline.config import TeacherOutputs
generator = VllmGenerator(TeacherOutputs(model=sys.argv[1], tensor_parallel=int(sys.argv[2])))
sampling = Sampling(temperature=0.0, seed=0, frequency_penalty=0.0, max_tokens=50)
generator.submit(Request(id="a", prompt=Prompt(examples=(), question="a"), sampling=sampling))
completion = generator.collect()[0][1]
print(generator.copies[0].process.pid, completion.output_tokens, flush=True)
sys.stdin.read()
"""


def prompts(texts):
    rows = [prompt_row(number, text, stratum="Horror") for number, text in enumerate(texts)]
    return pa.Table.from_pylist(rows, schema=schemas.PROMPTS)


def taught(texts, config, folder):
    with ContentStore(folder) as store:
        made = list(teach(iter(prompts(texts).to_batches()), config, store))
    return pa.Table.from_batches(made).to_pylist()


@pytest.fixture(scope="session")
def small_model(tmp_path_factory):
    """A folder with a random model that can be spread over two processes: SmolLM2 has an odd number of heads."""
    folder = tmp_path_factory.mktemp("small")
    tokenizer = load_tokenizer(model_folder(SMOLLM2))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
def test_the_unpacked_model_still_makes_sense():
    folder = model_folder(SMOLLM2)
    tokenizer, model = load_tokenizer(folder), load_causal(folder, torch.bfloat16)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    chat = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(chat, return_tensors="pt")
    made = model.generate(**ids, max_new_tokens=20, do_sample=False)
    assert "Paris" in tokenizer.decode(made[0, ids["input_ids"].shape[1] :])


@pytest.mark.vllm
@pytest.mark.slow
def test_a_real_teacher_names_what_the_texts_say_and_obeys_nobody_else(tmp_path):
    endless = "Kettle " + "and boil water " * 400
    config = TeacherOutputs(max_text_tokens=60)
    rows = taught([*TEXTS, endless, *HOSTILE_TITLES], config, tmp_path)
    assert [row["status"] for row in rows[:2]] == ["ok", "ok"]
    assert "horror" in [phrase.lower() for phrase in rows[0]["explicit_phrases"]]
    for row in rows:
        assert len(row["explicit_phrases"]) + len(row["implicit_phrases"]) <= 2 * MAX_PHRASES
        assert row["output_tokens"] <= config.max_output_tokens * row["attempts"]
        assert not any("zebra" in phrase.lower() for phrase in row["implicit_phrases"])
    english = [row for row in rows if row["template_id"].startswith("item.en@")]
    lengths = [row["prompt_tokens"] / row["attempts"] for row in english]
    assert len(english) == len(rows) - 1
    assert rows[2]["text_tokens_cut"] > 1000
    assert max(lengths) <= min(lengths) + config.max_text_tokens + 60
    assert not [child for child in psutil.Process().children() if "vllm_worker" in " ".join(child.cmdline())]
    again = taught([*TEXTS, endless, *HOSTILE_TITLES], config, tmp_path)
    assert again == rows


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_parent_leaves_no_engine_behind(processes, small_model):
    command = [sys.executable, "-c", START_TEACHER, small_model, str(processes)]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    said = parent.stdout.readline().split()
    assert int(said[1]) > 0, "the model wrote nothing"
    worker = psutil.Process(int(said[0]))
    family = [worker, *worker.children(recursive=True)]
    assert len(family) >= processes
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    deadline = time.monotonic() + 20
    while any(process.is_running() for process in family) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [process for process in family if process.is_running()]


@pytest.mark.vllm
@pytest.mark.slow
def test_a_model_vllm_cannot_load_ends_in_a_sentence(tmp_path):
    for path in model_folder(SMOLLM2).iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ServiceError, match="model's process ended with code"):
        taught(TEXTS, TeacherOutputs(model=str(tmp_path)), tmp_path / "store")


def test_a_folder_that_is_no_model_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "no-such-type"}', encoding="utf-8")
    with pytest.raises(ConfigError, match="no model folder that can be loaded"):
        VllmGenerator(TeacherOutputs(model=str(tmp_path)))
