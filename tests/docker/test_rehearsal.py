"""An image carried out in a folder: the same commands, and nothing outside of the folder."""

import subprocess
from pathlib import Path

import pytest
from dockerfile import read
from rehearsal import INSIDE, Rehearsal

TEXT = """\
FROM python:3.11.15-slim-bookworm AS builder
ENV GREETING="hello from /opt/said"
WORKDIR /build
COPY words ./
RUN --mount=type=cache,target=/root/.cache/uv \\
    mkdir -p /opt && cat words > /opt/said \\
 && echo "$GREETING" >> /opt/said
FROM python:3.11.15-slim-bookworm AS image
RUN groupadd --gid 10001 msd && install -d -o 10001 -g 10001 -m 0750 /work /var/log/airflow
ENV PATH=/opt/bin:/usr/local/bin:/usr/bin:/bin
COPY --link --from=builder /opt /opt
ENTRYPOINT ["/usr/bin/tini", "--", "/opt/image/entrypoint.sh"]
HEALTHCHECK --interval=15s CMD ["/usr/local/bin/python", "-I", "/opt/image/health.py"]
CMD ["cat", "/opt/said", "/etc/hostname"]
"""


@pytest.fixture
def image(tmp_path: Path) -> Rehearsal:
    (tmp_path / "Dockerfile").write_text(TEXT)
    (tmp_path / "context").mkdir()
    (tmp_path / "context/words").write_text("first\n")
    return Rehearsal(
        dockerfile=read(tmp_path / "Dockerfile"), context=tmp_path / "context", root=tmp_path / "root", has_pip=False
    )


def test_every_stage_is_carried_out_inside_the_folder(image: Rehearsal) -> None:
    image.build("image")
    assert (image.root / "opt/said").read_text() == f"first\nhello from {image.root}/opt/said\n"
    assert (image.root / "var/log/airflow").is_dir()
    assert image.left_out == ["groupadd --gid 10001 msd"]
    assert image.command("image") == [
        f"{image.root}/opt/image/entrypoint.sh",
        "cat",
        f"{image.root}/opt/said",
        "/etc/hostname",
    ]
    assert image.health("image") == [f"{image.root}/usr/local/bin/python", "-I", f"{image.root}/opt/image/health.py"]
    assert image.environment("image")["PATH"] == f"{image.root}/opt/bin:{image.root}/usr/local/bin:/usr/bin:/bin"


def test_a_command_that_fails_ends_it(image: Rehearsal) -> None:
    (image.context / "words").unlink()
    (image.context / "words").mkdir()
    with pytest.raises(subprocess.CalledProcessError):
        image.build("image")


def test_what_a_stage_has_not_made_cannot_be_copied_from_it(image: Rehearsal, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(TEXT.replace("/opt /opt", "/opt/other /opt/other"))
    image.dockerfile = read(tmp_path / "Dockerfile")
    with pytest.raises(AssertionError, match="builder has made no /opt/other"):
        image.build("image")


@pytest.mark.parametrize(
    ("said", "here"),
    [
        ("/opt/msd/bin:/usr/bin", "R/opt/msd/bin:/usr/bin"),
        ("--file=/run/secrets/X", "--file=R/run/secrets/X"),
        ("sqlite:////work/a.db", "sqlite:////work/a.db"),
        ("http://host/work/x", "http://host/work/x"),
        ("/optional /workshop", "/optional /workshop"),
        ("'/work' \"/cache\"", "'R/work' \"R/cache\""),
        ("/home/msd/.cache", "R/home/msd/.cache"),
        ("./work ../opt", "./work ../opt"),
    ],
)
def test_only_an_images_own_paths_are_moved(said: str, here: str) -> None:
    assert INSIDE.sub(lambda match: f"R/{match[1]}", said) == here
