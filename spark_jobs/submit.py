"""What `spark-submit spark_jobs/<stage>.py --source … --work …` runs: one stage of the same plan as msd's, or several.

Tables are DataFrame work; a row-wise stage's maker runs inside the executors.
"""

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Callable, Container, Mapping
from pathlib import Path

from pipeline import log_lines
from pipeline.call import PRESET, SOURCE, plan_of
from pipeline.errors import MsdError, StageError
from pipeline.job import Job
from pipeline.lifeline import end_with_starter
from pipeline.metrics import tell_stage
from pipeline.progress import note
from pipeline.runner import Plan, make_plan, run_stage
from pipeline.settings import resolve
from pipeline.source import load_source
from pipeline.stages import BY_NAME, Kind
from pipeline.storage import Outcome, Workspace
from spark_jobs.rows import execute_rows
from spark_jobs.session import stop


def submit(name: str, execute: Callable[[Job], Outcome] | None = None) -> None:
    """Makes one dataset whose inputs are committed; ends the process with msd's exit codes.

    Args:
        name: of the dataset.
        execute: who calls the maker, where it is neither the one of the stage's kind nor Spark row by row.
    """
    parser = _parser(f"{name}.py", BY_NAME[name].summary)
    _make_all(parser.parse_args(), {name: execute})


def submit_several() -> None:
    """Makes the datasets named on the command line in one session, each as its own job would."""
    parser = _parser("run.py", "Several datasets in one Spark session, inputs first.")
    known = [name for name in BY_NAME if importlib.util.find_spec(f"spark_jobs.{name}") is not None]
    parser.add_argument("stages", nargs="+", choices=known, metavar="STAGE", help=", ".join(known))
    arguments = parser.parse_args()
    modules = {name: importlib.import_module(f"spark_jobs.{name}") for name in known if name in arguments.stages}
    _make_all(arguments, {name: getattr(module, "execute", None) for name, module in modules.items()})


def _make_all(arguments: argparse.Namespace, executes: Mapping[str, Callable[[Job], Outcome] | None]) -> None:
    end_with_starter()
    name = next(iter(executes))
    try:
        log_lines.begin("spark-submit")
        plan = _plan(arguments)
        for name in executes:
            _check_inputs(plan, name, arguments, set(executes))
        for name, execute in executes.items():
            _make(plan, name, execute)
    except MsdError as error:
        if log_lines.is_json():
            log_lines.write_failure(f"{name}: {error}", error, exit_code=error.exit_code)
        else:
            note(f"{name}: {error}")
        sys.exit(error.exit_code)
    finally:
        stop()


def _make(plan: Plan, name: str, execute: Callable[[Job], Outcome] | None) -> None:
    if plan.dataset(name).manifest is None:
        stage = BY_NAME[name]
        run_stage(plan, stage, execute or (execute_rows if stage.kind is Kind.ROWS else None))
    tell_stage(plan, plan.dataset(name))
    note(f"{name}: {plan.dataset(name).folder}")


def _plan(arguments: argparse.Namespace) -> Plan:
    if arguments.date is not None:
        return plan_of(arguments.work, arguments.source, arguments.preset, arguments.set or None, arguments.date)
    arguments.source = arguments.source or SOURCE
    arguments.preset = arguments.preset or PRESET
    return make_plan(Workspace(arguments.work), load_source(arguments.source), resolve(arguments.preset, arguments.set))


def _parser(file: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"spark-submit spark_jobs/{file}", description=description)
    parser.add_argument("--source", help=f"a source TOML, a built-in name or NAME:FOLDER; without --date {SOURCE}")
    parser.add_argument("--preset", help=f"a built-in preset or a TOML file; without --date {PRESET}")
    parser.add_argument("--date", metavar="YYYY-MM-DD", help="a day that msd open recorded, with source and settings")
    parser.add_argument("--set", action="append", default=[], metavar="stage.key=value", help="wins over the preset")
    parser.add_argument("--work", type=Path, default=Path("work"), help="the folder datasets are kept in")
    return parser


def _check_inputs(plan: Plan, name: str, arguments: argparse.Namespace, being_made: Container[str]) -> None:
    inputs = [needed for needed in BY_NAME[name].inputs if needed not in being_made]
    missing = [needed for needed in inputs if plan.dataset(needed).manifest is None]
    if missing:
        named = f"--source {arguments.source} --preset {arguments.preset}"
        rest = f"--date {arguments.date}" if arguments.date else named
        rest += "".join(f" --set {override}" for override in arguments.set) + f" --work {arguments.work}"
        raise StageError(
            f"needs {', '.join(missing)}, which this source and these settings have not made yet; run: msd run"
            f" {' '.join(missing)} {rest}, or spark-submit spark_jobs/{missing[0]}.py {rest}"
        )
