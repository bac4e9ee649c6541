"""`msd tune`: the settings of arms searched over their declared spaces, on valid, with the same budget for each."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline import runner
from pipeline.call import DebugOption, PresetOption, SetOption, SourceOption, WorkOption, plan_of
from pipeline.errors import UsageError
from pipeline.job import load
from pipeline.progress import note
from pipeline.storage import held_by_us

FOLDER = "tuning"


def tune(
    arms: Annotated[
        list[str], typer.Argument(metavar="ARM...", help="Arms to tune, each with the same number of trials.")
    ],
    trials: Annotated[int, typer.Option("--trials", min=1, help="Settings tried of each arm, the first as it stands.")],
    seconds: Annotated[
        float, typer.Option("--seconds", min=0, help="Begin no further round of trials after so long; 0: no limit.")
    ] = 0.0,
    seeds: Annotated[str, typer.Option("--seeds", help="Trainings of a trial, whose valid AUCs are averaged.")] = "1",
    source: SourceOption = None,
    preset: PresetOption = None,
    set_: SetOption = None,
    work: WorkOption = Path("work"),
    debug: DebugOption = False,
) -> None:
    """Searches the settings of arms over their declared spaces by the valid AUC; stopped anywhere, it goes on there.

    Writes best.toml, history.png and the trials into the work folder's `tuning/`; test is not read.
    """
    plan = plan_of(work, source, preset, set_)
    config = plan.settings["ctr_model"]
    numbers = _seed_numbers(seeds)
    needed: list[str] = load("msd_models.arm_tuning:needed_datasets")(config, arms)
    budget = load("msd_models.arm_tuning:Budget")(trials=trials, seconds=seconds, seeds=numbers)
    folder = plan.workspace.root / FOLDER
    with held_by_us(plan.workspace.dataset(FOLDER, "trials", None)):
        runner.run(plan, needed)
        datasets = {name: plan.dataset(name) for name in needed}
        for line in load("msd_models.arm_tuning:tune")(config, folder, arms, budget, datasets):
            typer.echo(line)
    best = folder / "best.toml"
    note(f"tuning: {folder / 'history.png'}; train with them: msd run report --set ctr_model.arms_file={best}")


def _seed_numbers(text: str) -> tuple[int, ...]:
    try:
        seeds = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError as error:
        raise UsageError(f"--seeds {text}: wanted whole numbers with commas between, such as 1,2") from error
    return seeds
