"""The generator's bookkeeping over worker processes that answer by rule: dealing, dying, giving up."""

from pathlib import Path

import pytest

from msd_models.generators import Prompt, Request, Sampling
from msd_models.vllm_generator import ENGINE_DIED, VllmGenerator
from pipeline.config import TeacherOutputs
from pipeline.errors import ServiceError

WORKER = str(Path(__file__).parents[2] / "support" / "scripted_worker.py")
POISON = "zebra"


@pytest.fixture
def make(tmp_path):
    made = []

    def _make(dies="always", **settings):
        generator = VllmGenerator(TeacherOutputs(**settings))
        poison = generator.tokenizer(f" {POISON}", add_special_tokens=False)["input_ids"]
        assert len(poison) == 1
        generator.worker = (WORKER, str(poison[0]), str(tmp_path / "deaths"), dies)
        made.append(generator)
        return generator

    yield _make
    for generator in made:
        generator.close()


def request(number, text):
    sampling = Sampling(temperature=0.0, seed=0, frequency_penalty=0.0, max_tokens=50)
    return Request(id=str(number), prompt=Prompt(examples=(), question=text), sampling=sampling)


def answered(generator, texts):
    for number, text in enumerate(texts):
        generator.submit(request(number, text))
    done = {}
    while found := generator.collect():
        done.update(found)
    return [done[str(number)] for number in range(len(texts))]


@pytest.mark.parametrize("copies", [1, 2, 3])
def test_every_request_is_answered_whatever_the_number_of_copies(make, copies):
    generator = make(data_parallel=copies, concurrency=4)
    found = answered(generator, [f"thing {number}" for number in range(20)])
    assert all(completion.error is None and "4 at once" in completion.text for completion in found)
    assert sum(copy is not None for copy in generator.copies) == copies
    assert generator.capacity == 4 * copies


@pytest.mark.parametrize("copies", [1, 2])
def test_a_poisoned_row_is_given_up_and_no_other(make, copies, tmp_path):
    texts = [f"thing {number}" + (f" of a {POISON} here" if number in (3, 11) else "") for number in range(16)]
    found = answered(make(data_parallel=copies), texts)
    assert [n for n, completion in enumerate(found) if completion.error == ENGINE_DIED] == [3, 11]
    assert all(completion.output_tokens == 3 for n, completion in enumerate(found) if n not in (3, 11))
    assert 2 <= len((tmp_path / "deaths").read_text()) <= 4


def test_an_engine_that_died_of_nothing_lasting_is_started_again(make, tmp_path):
    found = answered(make(dies="once"), ["a", f"the {POISON} here", "b"])
    assert [completion.error for completion in found] == [None, None, None]
    assert (tmp_path / "deaths").read_text() == "x"


def test_engines_that_die_of_everything_end_the_stage(make):
    with pytest.raises(ServiceError, match=r"ended with code -9.*msd doctor"):
        answered(make(), [f"{number} {POISON} {POISON}" for number in range(9)])


def test_an_over_long_prompt_is_given_up_without_a_model(make):
    generator = make()
    found = answered(generator, ["word " * 5000])
    assert [completion.error for completion in found] == ["over-long"]
    assert generator.copies == [None]


def test_the_same_bytes_elsewhere_are_the_same_model(make, tmp_path):
    first = make()
    folder = tmp_path / "moved"
    folder.mkdir()
    for path in first.folder.iterdir():
        (folder / path.name).symlink_to(path)
    assert make(model=str(folder)).identity() == first.identity()
    (folder / "extra.json").write_text("{}")
    assert make(model=str(folder)).identity() != first.identity()
