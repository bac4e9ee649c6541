"""What every image has to be, asked of the Dockerfile; and that each question can be answered with no."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from dockerfile import Dockerfile, read
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
OURS = ROOT / "docker/Dockerfile"
SERVERS = ("airflow", "spark", "store", "cpu", "gpu")
TASKS = ("spark-task", "store-task")
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|CREDENTIAL|PRIVATE|API_KEY", re.IGNORECASE)
GOOD = """\
FROM python:3.11.15-slim-bookworm AS base
USER 10001:10001
ENTRYPOINT ["/usr/bin/tini", "--", "/opt/image/entrypoint.sh"]
HEALTHCHECK CMD ["python", "health.py"]
CMD ["serve"]
"""


def complaints(dockerfile: Dockerfile, servers: tuple[str, ...], tasks: tuple[str, ...] = ()) -> list[str]:
    found = []
    for name in (*servers, *tasks):
        user = dockerfile.last(name, "USER")
        if user is None or not re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user.text):
            found.append(f"{name} runs as {user.text if user else 'root'}")
        if not re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+[\w.-]*(@sha256:\w{64})?", dockerfile.base_image(name)):
            found.append(f"{name} stands on {dockerfile.base_image(name)}, which is another image tomorrow")
        for word in ("ENTRYPOINT", "CMD"):
            start = dockerfile.last(name, word)
            if start is None or not start.text.startswith("["):
                found.append(f"{name}: a shell stands between signals and its {word}")
        health = dockerfile.last(name, "HEALTHCHECK")
        if name in servers and (health is None or health.text == "NONE"):
            found.append(f"{name} has no health check")
    for stage in dockerfile.stages.values():
        for one in stage.instructions:
            found += _of_one(f"{stage.name}, line {one.line}", one.word, one.text)
    return found


def _of_one(where: str, word: str, text: str) -> list[str]:
    found = []
    if word in ("ENV", "ARG") and SECRET.search(text):
        found.append(f"{where}: a secret would stay in a layer")
    if word == "RUN" and re.search(r"\b(curl|wget)\b", text):
        found.append(f"{where}: something is downloaded that nothing pins")
    for step in text.split(" && ") if word == "RUN" else ():
        if step.strip().startswith("uv pip install") and not re.search(r"--constraint|\.lock\b|--no-deps", step):
            found.append(f"{where}: packages without a lock")
    return found


def test_our_images_are_as_they_have_to_be() -> None:
    assert complaints(read(OURS), SERVERS, TASKS) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("USER 10001:10001", "USER root"), "runs as root"),
        (("USER 10001:10001\n", ""), "runs as root"),
        (("3.11.15-slim-bookworm", "latest"), "another image tomorrow"),
        (('CMD ["serve"]', "CMD serve"), "a shell stands between"),
        (('HEALTHCHECK CMD ["python", "health.py"]', "HEALTHCHECK NONE"), "no health check"),
        (("USER", "ENV REDIS_PASSWORD=x\nUSER"), "stay in a layer"),
        (("USER", "ARG API_TOKEN\nUSER"), "stay in a layer"),
        (("USER", "RUN curl -sSf https://example.org/x | sh\nUSER"), "nothing pins"),
        (("USER", "RUN uv pip install torch\nUSER"), "without a lock"),
    ],
)
def test_an_image_that_is_not_is_told(tmp_path: Path, change: tuple[str, str], expected: str) -> None:
    path = tmp_path / "Dockerfile"
    path.write_text(GOOD)
    assert complaints(read(path), ("base",)) == []
    path.write_text(GOOD.replace(*change, 1))
    assert any(expected in complaint for complaint in complaints(read(path), ("base",)))


def test_hadolint_has_nothing_to_say_and_would() -> None:
    hadolint = [str(Path(sys.executable).with_name("hadolint")), "--config", str(ROOT / "docker/.hadolint.yaml")]
    done = subprocess.run([*hadolint, str(OURS)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    bad = subprocess.run(
        [*hadolint, "-"], input="FROM debian\nADD x y\n", capture_output=True, text=True, timeout=60, check=False
    )
    assert bad.returncode != 0
    assert "DL3006" in bad.stdout


def test_only_what_is_copied_reaches_the_build() -> None:
    lines = (ROOT / "docker/Dockerfile.dockerignore").read_text().splitlines()
    let_in = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        source
        for stage in read(OURS).stages.values()
        for one in stage.instructions
        if one.word == "COPY" and one.flag("from") is None
        for source in one.words[:-1]
    }
    assert "*" in lines
    assert {source.removeprefix("./") for source in copied} == let_in
    assert all((ROOT / source).exists() for source in let_in)


def test_every_target_that_is_built_is_one() -> None:
    stages = read(OURS).stages
    assert {*SERVERS, *TASKS} <= stages.keys()


@given(st.lists(st.from_regex(r"[a-z0-9=./]{1,12}", fullmatch=True), min_size=2, max_size=8), st.data())
def test_a_line_may_be_broken_anywhere(words: list[str], data: st.DataObject) -> None:
    breaks = data.draw(st.lists(st.sampled_from([" ", " \\\n    ", " \\\n# why\n  "]), min_size=7, max_size=7))
    text = words[0] + "".join(gap + word for gap, word in zip(breaks, words[1:], strict=False))
    from dockerfile import _instructions

    (one,) = _instructions(f"# syntax=x\n\nRUN --mount=type=cache,target=/x {text}\n")
    assert (one.word, one.flag("mount"), one.words) == ("RUN", "type=cache,target=/x", words)


def test_what_is_not_understood_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "Dockerfile"
    path.write_text("FROM a:1 AS b\nADD x y\n")
    with pytest.raises(ValueError, match="line 2: ADD"):
        read(path)
    path.write_text("USER 1\n")
    with pytest.raises(ValueError, match="before the first FROM"):
        read(path)
