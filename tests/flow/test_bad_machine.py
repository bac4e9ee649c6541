"""What a machine or a setting can lack ends in one sentence and an exit code, and nothing made before is lost."""

import shutil

import pytest

pytestmark = [
    pytest.mark.spark,
    pytest.mark.redis,
    pytest.mark.feast,
    pytest.mark.slow,
    pytest.mark.xdist_group("flow"),
]


@pytest.fixture
def made(planted, tmp_path):
    """A copy of a finished work folder, to break."""
    return shutil.copytree(planted.work, tmp_path / "work", ignore=shutil.ignore_patterns("redis"))


def assert_sentence(ended, exit_code, *words):
    assert ended.returncode == exit_code, ended.stderr
    assert "Traceback" not in ended.stderr
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("msd: ")
    assert all(word in last for word in words), last


def test_an_unreachable_redis(msd, made):
    shutil.rmtree(made / "publication")
    address = "redis://:secret-word@127.0.0.1:1/0"
    ended = msd("run", "publication", work=made, environment={"REDIS_URL": address})
    assert_sentence(ended, 1, "127.0.0.1:1", "REDIS_URL")
    assert "secret-word" not in ended.stderr


def test_no_java(msd, tmp_path):
    environment = {"JAVA_HOME": str(tmp_path / "no-java"), "PATH": "/nowhere"}
    ended = msd("run", "items", "--source", "tiny-world", work=tmp_path / "work", environment=environment)
    assert_sentence(ended, 1, "Java")


@pytest.mark.parametrize(
    ("stage", "setting"),
    [
        ("teacher_outputs", "teacher_outputs.model=/no/such/model"),
        ("student", "student.base_model=/no/such/model"),
        ("item_text_vectors", "item_text_vectors.encoder=/no/such/model"),
    ],
)
def test_a_model_path_that_does_not_exist(msd, planted, made, stage, setting):
    real_teacher = ["--set", "teacher_outputs.generator=vllm"] if stage == "teacher_outputs" else []
    ended = msd("run", stage, *planted.options, *real_teacher, "--set", setting, work=made)
    assert_sentence(ended, 2, "/no/such/model")


def test_what_was_made_before_survives(msd, planted, made):
    msd("run", "item_text_vectors", "--set", "item_text_vectors.encoder=/no/such/model", work=made)
    ended = msd("run", "report", *planted.options, work=made)
    assert ended.returncode == 0, ended.stderr
    assert "nothing recomputed" in ended.stderr
    assert (made / "report" / "report.html").is_file()
