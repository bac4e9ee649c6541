"""`msd gate`: whether readers may be pointed at what is published; exit code 1 where they may not."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline import gate, metrics
from pipeline.call import DateOption, DebugOption, PresetOption, SetOption, SourceOption, WorkOption, plan_of
from pipeline.checks import lines
from pipeline.errors import StageError, UsageError

MIN_F1 = 0.1
MAX_AUC_LOSS = 0.02


def judge(
    min_f1: Annotated[float, typer.Option("--min-f1", help="Floor of the student's phrase F1.")] = MIN_F1,
    max_auc_loss: Annotated[
        float, typer.Option("--max-auc-loss", help="AUC a canary model may lose against the active generation.")
    ] = MAX_AUC_LOSS,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Pass where the active generation's files are gone.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="End with the verdict as one line of JSON on stdout.")] = False,
    source: SourceOption = None,
    preset: PresetOption = None,
    set_: SetOption = None,
    date: DateOption = None,
    work: WorkOption = Path("work"),
    debug: DebugOption = False,
) -> None:
    """Judges a published generation before readers are pointed at it: vectors, phrases, and clicks against theirs.

    The verdict is kept in WORK/gates; msd publish heeds it. Exit code 0 where the gate is open, 1 where it is closed.
    """
    if not 0 <= min_f1 <= 1:
        raise UsageError(f"--min-f1 {min_f1}: an F1 lies between 0 and 1")
    if not max_auc_loss >= 0:
        raise UsageError(f"--max-auc-loss {max_auc_loss}: give 0 or more")
    plan = plan_of(work, source, preset, set_, date)
    bounds = gate.Bounds(min_f1=min_f1, max_auc_loss=max_auc_loss, allow_missing=allow_missing)
    verdict = gate.judge(plan, bounds)
    metrics.tell_gate(plan, is_open=verdict["is_open"], **gate.figures(verdict))
    _print(verdict, as_json=json_)
    if not verdict["is_open"]:
        raise StageError(
            f"the gate is closed for the generation {verdict['generation']}: {gate.reasons(verdict)};"
            " readers stay where they are"
        )


def _print(verdict: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(verdict))
        return
    for line in lines(verdict["checks"]):
        typer.echo(line)
    if verdict["is_open"]:
        typer.echo(f"the gate is open for the generation {verdict['generation']}")
