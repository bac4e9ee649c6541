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

from msd_models.answers import MAX_PHRASES
from msd_models.language_model import SMOLLM2, load_causal, load_tokenizer, model_folder
from msd_models.teacher import Teacher
from msd_models.vllm_generator import WORKER, VllmGenerator
from pipeline import schemas
from pipeline.config import TeacherOutputs
from pipeline.content_store import ContentStore
from pipeline.errors import ConfigError, ServiceError

TEXTS = ["Amityville 3-D\ngenres: Horror\nyear: 1983", "Grease\ngenres: Comedy Musical Romance\nyear: 1978"]

START_TEACHERS = """
import sys
from msd_models.generators import Prompt, Request, Sampling
from msd_models.vllm_generator import VllmGenerator
from pipeline.config import TeacherOutputs
sampling = Sampling(temperature=0.0, seed=0, frequency_penalty=0.0, max_tokens=50)
request = Request(id="a", prompt=Prompt(examples=(), question="a"), sampling=sampling)
settings = {"model": sys.argv[1], "dtype": "float32"}
generators = [VllmGenerator(TeacherOutputs(**settings, tensor_parallel=processes)) for processes in (1, 2)]
for generator in generators:
    generator.submit(request)
for generator in generators:
    completion = generator.collect()[0][1]
    print(generator.copies[0].process.pid, completion.output_tokens, flush=True)
sys.stdin.read()
"""


def prompts(texts):
    rows = [prompt_row(number, text, stratum="Horror") for number, text in enumerate(texts)]
    return pa.Table.from_pylist(rows, schema=schemas.PROMPTS)


@pytest.fixture
def taught(vllm_worker):
    """`taught(texts, config, folder)` → rows, by a real engine that need not import vLLM."""

    def _taught(texts, config, folder):
        with ContentStore(folder) as store:
            teacher = Teacher(config, store)
            teacher.generator.worker = vllm_worker(*WORKER[1:])
            try:
                made = list(teacher.answered(iter(prompts(texts).to_batches())))
            finally:
                teacher.close()
        return pa.Table.from_batches(made).to_pylist()

    return _taught


@pytest.mark.slow
def test_the_unpacked_model_still_makes_sense():
    folder = model_folder(SMOLLM2)
    tokenizer, model = load_tokenizer(folder), load_causal(folder, torch.float32)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    chat = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(chat, return_tensors="pt")
    made = model.generate(**ids, max_new_tokens=20, do_sample=False)
    assert "Paris" in tokenizer.decode(made[0, ids["input_ids"].shape[1] :])


@pytest.mark.vllm
@pytest.mark.xdist_group("vllm")
@pytest.mark.slow
def test_a_real_teacher_names_what_the_texts_say_and_obeys_nobody_else(taught, tmp_path):
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
    assert not [child for child in psutil.Process().children() if WORKER[1] in " ".join(child.cmdline())]
    again = taught([*TEXTS, endless, *HOSTILE_TITLES], config, tmp_path)
    assert again == rows


@pytest.mark.vllm
@pytest.mark.xdist_group("vllm")
@pytest.mark.slow
def test_a_killed_parent_leaves_no_engine_behind(small_llama):
    """Neither one in a process nor one that is spread over two."""
    command = [sys.executable, "-c", START_TEACHERS, str(small_llama)]
    # Spread over processes vLLM compiles its embedding with g++ in each of them, which takes longer than all the rest.
    environment = os.environ | {"TORCH_COMPILE_DISABLE": "1"}
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    family = []
    for processes in (1, 2):
        pid, output_tokens = map(int, parent.stdout.readline().split())
        assert output_tokens > 0, "the model wrote nothing"
        worker = psutil.Process(pid)
        engine = [worker, *worker.children(recursive=True)]
        assert len(engine) >= processes
        family += engine
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    deadline = time.monotonic() + 20
    while any(process.is_running() for process in family) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [process for process in family if process.is_running()]


@pytest.mark.vllm
@pytest.mark.xdist_group("vllm")
@pytest.mark.slow
def test_a_model_vllm_cannot_load_ends_in_a_sentence(taught, tmp_path):
    for path in model_folder(SMOLLM2).iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ServiceError, match="model's process ended with code"):
        taught(TEXTS, TeacherOutputs(model=str(tmp_path)), tmp_path / "store")


def test_a_folder_that_is_no_model_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "no-such-type"}', encoding="utf-8")
    with pytest.raises(ConfigError, match="no model folder that can be loaded"):
        VllmGenerator(TeacherOutputs(model=str(tmp_path)))
