"""Phrase F1 of the distilled student against its peers, on the rows of a work folder that it never saw.

Run: `python benchmarks/student_f1.py [WORK]`; where the folder holds no student, one is made first (minutes). Peers:
the same layers before training, the most frequent teacher phrases of the row's stratum, and the phrases of the nearest
training row by sentence vector. Everybody's phrases for the same rows lie in the student's holdout.parquet; all are
measured here, in one run, with one encoder and one threshold.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
import typer

from msd_models.phrase_scores import Measured, ScoredRow, measure
from msd_models.sentence_encoder import SentenceEncoder

NAMES = {
    "student": "student, trained",
    "untrained": "the same layers, untrained",
    "frequent": "frequent phrases of the stratum",
    "nearest": "phrases of the nearest training row",
}


def main(
    work: Annotated[Path, typer.Argument(help="a work folder; a student is made in it where there is none")] = Path(
        "work"
    ),
) -> None:
    """Prints everybody's F1 with its interval, and the ratio of trained to untrained."""
    if not _students(work):
        command = [sys.executable, "-m", "pipeline", "run", "student", "--preset", "small", "--work", str(work)]
        subprocess.run(command, check=True)
    committed = _students(work)
    manifest = json.loads(committed[-1].read_text(encoding="utf-8"))
    details = manifest["details"]
    encode = SentenceEncoder(manifest["settings"]["phrase_encoder"]).encode
    rows = pq.read_table(committed[-1].parent / "holdout.parquet").to_pylist()
    scores = {name: measure(_scored(rows, name), encode, details["tau"]) for name in NAMES}
    levels = ", ".join(sorted({row["level"] for row in rows}))
    typer.echo(f"{len(rows)} rows held out ({levels}), threshold {details['tau']:g}, source {manifest['source']}")
    for name, said in NAMES.items():
        typer.echo(f"  {said:<36} {_line(scores[name])}")
    typer.echo(_verdict(scores))


def _students(work: Path) -> list[Path]:
    """Manifests of the committed students, the newest last."""
    return sorted(work.glob("student/*/manifest.json"), key=lambda path: path.stat().st_mtime)


def _scored(rows: list[dict[str, Any]], name: str) -> list[ScoredRow]:
    return [
        ScoredRow(
            level=row["level"],
            stratum=row["stratum"],
            predicted=(row[f"{name}_explicit"], row[f"{name}_implicit"]),
            gold=(row["teacher_explicit"], row["teacher_implicit"]),
        )
        for row in rows
    ]


def _line(scores: Measured) -> str:
    low, high = scores.micro_interval
    lists = ", ".join(f"{name} {value:.3f}" for name, value in scores.by_list.items())
    return f"F1 micro {scores.micro:.3f} [{low:.3f}, {high:.3f}], macro {scores.macro:.3f}; {lists}"


def _verdict(scores: dict[str, Measured]) -> str:
    trained, untrained = scores["student"], scores["untrained"]
    if untrained.micro == 0:
        ratio = "the untrained student's F1 is 0: it writes nothing that fits, so a ratio says nothing"
    else:
        ratio = f"ratio trained to untrained: {trained.micro / untrained.micro:.1f}"
    best = max(("frequent", "nearest"), key=lambda name: scores[name].micro)
    low, high = trained.micro_interval
    beats = "above" if low > scores[best].micro else "below" if high < scores[best].micro else "not told apart from"
    return f"{ratio}\nthe trained student is {beats} the better peer without a language model ({NAMES[best]})"


if __name__ == "__main__":
    typer.run(main)
