"""Gold phrases by hand: candidates out of the teacher's and the student's rows, labelled by people, made a gold file.

A candidate does not say who wrote it, and candidates stand in an order of chance: an annotator who knew the teacher's
phrases would judge the writer and not the phrase. What nobody said is added by hand under `added`.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from msd_models.gold import LEVELS, read_gold
from msd_models.jsonl import phrases_of, read_jsonl
from msd_models.phrase_scores import LISTS, distinct
from msd_models.phrases import clean_phrases
from msd_models.stable_sample import StableSample, stable_hash
from pipeline.errors import SourceError, StageError, UsageError
from pipeline.progress import note
from pipeline.storage import Dataset, write_atomically

LABELS = (*LISTS, "wrong")
BATCH_ROWS = 8192
COLUMNS = ["prompt_id", "level", "text", "status", "explicit_phrases", "implicit_phrases"]
Row = Mapping[str, Any]


def export(teacher_outputs: Dataset, student: Dataset, path: Path, *, rows: int, seed: int) -> None:
    """Writes rows for people to label, one JSON object a line.

    Args:
        teacher_outputs: committed; its usable rows are drawn from by a hash of their ids.
        student: where it is made, its held-out rows come first, with the student's phrases among the candidates.
        path: must not exist: hours of labelling may stand there.
        rows: how many, as far as there are so many.
        seed: of the draw and of the candidates' order.

    Raises:
        UsageError: the file exists, or rows is below 1.
        StageError: teacher_outputs is not made, or has no usable row.
    """
    _refuse_to_overwrite(path)
    if rows < 1:
        raise UsageError(f"--rows is {rows}; wanted 1 or more")
    if teacher_outputs.manifest is None:
        raise StageError("gold export: teacher_outputs is not made yet; run: msd run teacher_outputs")
    said = _student_phrases(student)
    drawn = _draw(teacher_outputs, set(said), rows, seed)
    if not drawn:
        raise StageError("gold export: the teacher has no usable row; look at them: msd show teacher_outputs")
    lines = [json.dumps(_question(row, said.get(row["prompt_id"], []), seed), ensure_ascii=False) for row in drawn]
    write_atomically(path, ("\n".join(lines) + "\n").encode())
    note(
        f"{path}: {len(lines)} rows. Write explicit (the text states it), implicit (true, but not in the text) or wrong"
        f" for each label, add what is missing, then: msd gold import {path} --to GOLD.jsonl"
    )


def import_(paths: list[Path], target: Path) -> None:
    """Makes a gold file of labelled files; rows nobody has begun are passed over.

    Args:
        paths: exported files with every label of a begun row filled in.
        target: the gold file, which must not exist.

    Raises:
        SourceError: a line is not as it should be, or two lines are about the same text.
        UsageError: the target exists.
    """
    _refuse_to_overwrite(target)
    begun: dict[str, str] = {}
    lines, num_untouched = [], 0
    for path in paths:
        for place, row in read_labelled(path):
            if is_untouched(row):
                num_untouched += 1
                continue
            if row["id"] in begun:
                raise SourceError(f"{place}: {row['id']} stands in {begun[row['id']]} already; keep one of the two")
            begun[row["id"]] = place
            lines.append(json.dumps(_answer(row, place), ensure_ascii=False))
    if not lines:
        raise SourceError(f"{', '.join(path.name for path in paths)}: no row is labelled yet")
    write_atomically(target, ("\n".join(lines) + "\n").encode())
    untouched = f" ({num_untouched} without a label passed over)" if num_untouched else ""
    note(
        f"{target}: {len(read_gold(target))} gold rows{untouched}. Measure against them: --set student.gold={target}"
        f" --set teacher_quality.gold={target}"
    )


def read_labelled(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of an exported file, each with its place for messages.

    Raises:
        SourceError: a line is not one that `export` writes, or has a label that is none of LABELS.
    """
    wanted = {"id": str, "level": str, "text": str, "candidates": list, "added": dict}
    for place, row in read_jsonl(path, wanted):
        if row["level"] not in LEVELS:
            raise SourceError(f"{place}: level is {row['level']!r}; wanted one of {', '.join(LEVELS)}")
        for candidate in row["candidates"]:
            if not isinstance(candidate, dict) or not isinstance(candidate.get("phrase"), str):
                raise SourceError(f"{place}: a candidate must be an object with a phrase and a label: {candidate!r}")
            if candidate.get("label") not in (None, *LABELS):
                raise SourceError(
                    f"{place}: the label of '{candidate['phrase']}' is {candidate['label']!r};"
                    f" wanted {', '.join(LABELS)} or null"
                )
        yield place, row


def is_untouched(row: Row) -> bool:
    """True where no candidate has a label and nothing was added."""
    return not any(row["added"].values()) and all(candidate["label"] is None for candidate in row["candidates"])


def _draw(teacher_outputs: Dataset, held_out: set[str], num_rows: int, seed: int) -> list[Row]:
    """Held-out rows first: a student is best measured on texts it was not trained on."""
    preferred, others = (StableSample[Row](num_rows, seed=seed, purpose="gold") for _ in range(2))
    for batch in teacher_outputs.batches(BATCH_ROWS):
        for row in batch.select(COLUMNS).to_pylist():
            if row["status"] == "ok":
                (preferred if row["prompt_id"] in held_out else others).offer(row["prompt_id"], row)
    return [*preferred.rows(), *others.rows()][:num_rows]


def _student_phrases(student: Dataset) -> dict[str, list[str]]:
    path = student.folder / "holdout.parquet"
    if student.manifest is None or not path.is_file():
        return {}
    columns = ["prompt_id", "student_explicit", "student_implicit"]
    rows = pq.read_table(path, columns=columns, partitioning=None).to_pylist()
    return {row["prompt_id"]: [*row["student_explicit"], *row["student_implicit"]] for row in rows}


def _question(row: Row, student_phrases: list[str], seed: int) -> dict[str, Any]:
    phrases = distinct([*row["explicit_phrases"], *row["implicit_phrases"], *student_phrases])
    shuffled = sorted(phrases, key=lambda phrase: stable_hash(f"candidates\0{seed}\0{row['prompt_id']}", phrase))
    return {
        "id": row["prompt_id"],
        "level": row["level"],
        "text": row["text"],
        "candidates": [{"phrase": phrase, "label": None} for phrase in shuffled],
        "added": {name: [] for name in LISTS},
    }


def _answer(row: Row, place: str) -> dict[str, Any]:
    unlabelled = [candidate["phrase"] for candidate in row["candidates"] if candidate["label"] is None]
    if unlabelled:
        raise SourceError(f"{place}: no label for {', '.join(unlabelled)}; wanted {', '.join(LABELS)}")
    lists = {}
    for name in LISTS:
        labelled = [candidate["phrase"] for candidate in row["candidates"] if candidate["label"] == name]
        lists[name] = clean_phrases([*labelled, *phrases_of(row["added"], name, f"{place}: added")])
    twice = {phrase.casefold() for phrase in lists["explicit"]} & {phrase.casefold() for phrase in lists["implicit"]}
    if twice:
        raise SourceError(f"{place}: {', '.join(sorted(twice))} cannot be both explicit and implicit")
    return {"text": row["text"], "level": row["level"], **lists}


def _refuse_to_overwrite(path: Path) -> None:
    if path.exists():
        raise UsageError(f"{path} exists and may hold work by hand; name another file, or move it away")
