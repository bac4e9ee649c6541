"""A teacher behind a server: what is asked of it, how many at once, and what is said when it is not there."""

import gc
import json
import socket
import time

import pytest
from served_model import ServedModel

from msd_models.answers import JSON_SCHEMA
from msd_models.generators import Prompt, Request, Sampling
from msd_models.openai_generator import OpenAiGenerator
from pipeline.config import TeacherOutputs
from pipeline.errors import ConfigError, ServiceError


def request(number, text="a thing"):
    sampling = Sampling(temperature=0.5, seed=number, frequency_penalty=0.4, max_tokens=50)
    question = f"Phrases of:\n<<<\n{text} {number}\n>>>"
    return Request(id=str(number), prompt=Prompt(examples=(("q", "a"),), question=question), sampling=sampling)


@pytest.fixture
def generator_for():
    made = []

    def _make(endpoint, **settings):
        chosen = {"model": "any", "tokenizer": "all-minilm-l6-v2"} | settings
        made.append(OpenAiGenerator(TeacherOutputs(generator="openai", endpoint=endpoint, **chosen)))
        return made[-1]

    yield _make
    for generator in made:
        generator.close()


def collected(generator):
    done = {}
    while found := generator.collect():
        done.update(found)
    return done


def test_as_many_at_once_as_set_and_everything_answered(generator_for):
    with ServedModel(seconds=0.2) as served:
        generator = generator_for(served.endpoint, concurrency=5)
        for number in range(40):
            generator.submit(request(number))
        done = collected(generator)
    assert sorted(done, key=int) == [str(number) for number in range(40)]
    assert served.most_open == 5
    assert all(json.loads(completion.text)["implicit"] for completion in done.values())


def test_the_request_holds_the_turns_the_sampling_and_the_schema(generator_for, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    with ServedModel() as served:
        generator = generator_for(served.endpoint)
        generator.submit(request(3))
        completion = collected(generator)["3"]
        asked = served.requests[0]
    assert [turn["role"] for turn in asked["messages"]] == ["user", "assistant", "user"]
    assert (asked["temperature"], asked["seed"], asked["frequency_penalty"], asked["max_tokens"]) == (0.5, 3, 0.4, 50)
    assert asked["response_format"]["json_schema"]["schema"] == JSON_SCHEMA
    assert served.keys == {"Bearer sesame"}
    assert (completion.prompt_tokens, completion.output_tokens) == (7, 5)


def test_a_server_that_is_not_there_is_named_without_the_key(generator_for, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        generator = generator_for(f"http://127.0.0.1:{held.getsockname()[1]}/v1")
        with pytest.raises(ServiceError, match="does not answer for any") as error:
            generator.submit(request(1))
    assert "sesame" not in str(error.value)


def test_a_model_the_server_has_not_is_said_with_those_it_has(generator_for):
    with ServedModel() as served, pytest.raises(ConfigError, match="serves any; set it to one of these"):
        generator_for(served.endpoint, model="gpt", tokenizer="all-minilm-l6-v2").submit(request(1))


def test_closing_in_the_midst_of_connecting_leaves_nothing_unfinished():
    with ServedModel() as served:
        config = TeacherOutputs(generator="openai", endpoint=served.endpoint, model="any", tokenizer="all-minilm-l6-v2")
        generators = [OpenAiGenerator(config) for _ in range(6)]
        for generator in generators:
            generator.submit(request(1))
            assert collected(generator)
    for number, generator in enumerate(generators):
        for row in range(64):
            generator.submit(request(row))
        time.sleep(0.005 * number)
        generator.close()
        gc.collect()


def test_a_server_that_goes_away_ends_the_stage_and_keeps_what_was_made(generator_for):
    served = ServedModel()
    with served:
        generator = generator_for(served.endpoint, timeout_seconds=1.0)
        generator.max_retries = 0
        generator.submit(request(1))
        assert collected(generator)
    generator.submit(request(2))
    with pytest.raises(ServiceError, match="goes on where it was"):
        collected(generator)


def test_closing_gives_up_what_is_under_way(generator_for):
    with ServedModel(seconds=0.5) as served:
        generator = generator_for(served.endpoint, concurrency=2)
        for number in range(50):
            generator.submit(request(number))
