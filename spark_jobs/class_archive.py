"""Spark's classes in one file that every later JVM maps into memory: `python -m spark_jobs.class_archive`, once.

A Spark JVM loads, verifies and links twenty thousand classes before it has done any work. Java's class-data sharing
(JEP 350) writes them, linked, to an archive when a JVM ends; one that is given it takes 2.3 s of processor time to
start in place of 5.3, and all tables of MovieLens-100K take ten seconds less.

The archive lies beside the jars it was made from and goes with them. Its name says which build of Java and which
jars it belongs to, and its size: a half-written or cut one is left alone. Java itself checks the jars and the bytes and
does without an archive that does not fit. Where there is none, everything works, more slowly.
"""

import hashlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyspark

from pipeline.errors import MsdError, ServiceError
from pipeline.progress import note

FOLDER = Path(pyspark.__file__).parent / "class_archive"
READ_OPTIONS = '-Xshare:auto -XX:SharedArchiveFile="{path}" -XX:+VerifySharedSpaces -Xlog:cds=off -Xlog:cds+dynamic=off'
"""Java says on stdout that an archive does not fit; nobody is helped by that."""
EXECUTOR_CLASSES = (
    "org.apache.spark.deploy.master.Master",
    "org.apache.spark.deploy.worker.Worker",
    "org.apache.spark.executor.CoarseGrainedExecutorBackend",
)
"""What a cluster's JVMs need beyond those of a local session."""
ITEMS, USERS, EVENTS = 40, 12, 240
SOURCE = """
[items]
path = "items.csv"
[events]
path = "events.csv"
time = "time"
label = "label"
[users]
path = "users.csv"
attributes = ["age"]
"""
STAGES = ("user_stats", "context_texts", "prompts")
"""With what they need: every table before the teacher."""


def java_options(version: str, folder: Path = FOLDER) -> str:
    """The options of a JVM that reads the archive; empty where there is none for this Java.

    Args:
        version: what `java -version` says.
        folder: of archives.
    """
    found = next(_archives(version, folder), None)
    return READ_OPTIONS.format(path=found) if found else ""


def make_archive(version: str) -> Path:
    """Makes the archive by a small run of the table stages, unless there is one; returns its path.

    Raises:
        ServiceError: this Java writes none.
        OSError: the folder beside the jars cannot be written.
    """
    found = next(_archives(version, FOLDER), None)
    if found is not None:
        return found
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER, prefix="writing-") as folder:
        aside = Path(folder) / "classes.jsa"
        _record(Path(folder), aside)
        if not aside.is_file():
            raise ServiceError("this Java writes no archive of classes; Java 17 or newer of OpenJDK does")
        return aside.replace(FOLDER / archive_name(version, aside.stat().st_size))


def archive_name(version: str, size: int) -> str:
    """The name of an archive of so many bytes, made by this Java of this pyspark's classes."""
    jars = FOLDER.with_name("jars")
    made_of = f"{pyspark.__version__}\n{jars}\n{jars.stat().st_mtime_ns}\n{version}"
    return f"{hashlib.sha256(made_of.encode()).hexdigest()[:16]}-{size}.jsa"


def _archives(version: str, folder: Path) -> Iterator[Path]:
    """Whole ones: an archive that was cut ends a JVM that reads it by a signal."""
    for path in folder.glob("*.jsa"):
        if path.name == archive_name(version, path.stat().st_size):
            yield path


def _record(folder: Path, archive: Path) -> None:
    from pipeline.runner import make_plan, run
    from pipeline.settings import resolve
    from pipeline.source import parse_source
    from pipeline.storage import Workspace
    from spark_jobs.session import session, stop

    _write_source(folder)
    spark = session(java_options=f'-XX:ArchiveClassesAtExit="{archive}" -Xlog:cds=off -Xlog:cds+dynamic=off')
    try:
        for name in EXECUTOR_CLASSES:
            spark.sparkContext._gateway.jvm.java.lang.Class.forName(name)  # type: ignore[union-attr]
        settings = resolve("tiny", ["prompts.item_rows=20", "prompts.user_rows=6", "prompts.near_duplicate=2.0"])
        run(make_plan(Workspace(folder / "work"), parse_source("classes", SOURCE, folder), settings), list(STAGES))
    finally:
        stop()


def _write_source(folder: Path) -> None:
    items = "".join(f"i{n},Item {n}\n" for n in range(ITEMS))
    users = "".join(f"u{n},{20 + n}\n" for n in range(USERS))
    events = "".join(f"u{n % USERS},i{(n * n) % ITEMS},{1000 + n},{n % 2}\n" for n in range(EVENTS))
    (folder / "items.csv").write_text("item_id,title\n" + items, encoding="utf-8")
    (folder / "users.csv").write_text("user_id,age\n" + users, encoding="utf-8")
    (folder / "events.csv").write_text("user_id,item_id,time,label\n" + events, encoding="utf-8")


def main() -> int:
    """Makes the archive; prints its path."""
    from spark_jobs.session import check_java

    try:
        path = make_archive(check_java())
    except (MsdError, OSError) as error:
        note(f"class archive: {error}; Spark starts without one, more slowly")
        return 1
    sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
