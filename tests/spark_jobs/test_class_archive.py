"""The archive of Spark's classes: read where it fits, and never in the way where it does not."""

import shlex
import subprocess
from pathlib import Path

import pyspark
import pytest

from spark_jobs.class_archive import archive_name, java_options, make_archive
from spark_jobs.session import check_java

pytestmark = pytest.mark.spark

JARS = Path(pyspark.__file__).parent / "jars"
CLASSPATH = f"{JARS.with_name('conf')}:{next(JARS.glob('slf4j-api-*.jar'))}:{JARS}/*"
"""As Spark's own scripts write it."""


def java(options, *words):
    done = subprocess.run(["java", *shlex.split(options), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_archive_of_another_java_or_one_that_was_cut_is_not_read(tmp_path):
    version = check_java()
    assert java_options(version, tmp_path) == ""
    (tmp_path / archive_name(version, 9)).write_bytes(b"eight by")
    (tmp_path / archive_name("another Java", 8)).write_bytes(b"eight by")
    assert java_options(version, tmp_path) == ""
    (tmp_path / archive_name(version, 8)).write_bytes(b"eight by")
    assert archive_name(version, 8) in java_options(version, tmp_path)


@pytest.mark.parametrize("content", [b"", b"no archive at all" * 9_000], ids=["empty", "other bytes"])
def test_java_starts_in_silence_where_the_bytes_are_no_archive(tmp_path, content):
    version = check_java()
    (tmp_path / archive_name(version, len(content))).write_bytes(content)
    options = java_options(version, tmp_path)
    assert options
    assert java(options, "-version") == ""


@pytest.mark.slow
def test_spark_takes_its_classes_from_the_archive_and_elsewhere_from_its_jars():
    make_archive(check_java())
    options = java_options(check_java())
    words = ("-Xlog:class+load", "org.apache.spark.deploy.SparkSubmit", "--version")
    assert f"{words[1]} source: shared objects file (top)" in java(options, "-cp", CLASSPATH, *words)
    elsewhere = java(options, "-cp", f"{JARS}/*", *words)
    assert "shared objects file (top)" not in elsewhere
    assert f"{words[1]} source: file:" in elsewhere
