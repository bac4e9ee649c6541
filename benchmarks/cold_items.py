"""MovieLens latest-small, split by time: every arm with intervals, and the items that training has hardly shown.

Where an item had fewer than ten exposures in training its id says little, and its text should: there MSD is wanted to
lead `din` by 0.01 AUC with the interval above zero. Where it does not, the report says why, from its probes.

`python benchmarks/cold_items.py FOLDER [--work DIR] [--seeds 1,2,3,4,5]`: FOLDER holds GroupLens' movies.csv and
ratings.csv; a quarter of an hour on two cores for the teacher, the student and the vectors, then some minutes a seed.
"""

import json
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline import runner
from pipeline.ablation import parse_numbers
from pipeline.call import plan_of
from pipeline.results import print_results

SOURCE = Path(__file__).parents[1] / "docs" / "sources" / "ml-latest-small.toml"
WANTED = 0.01
SEMANTIC, OPPONENT = ("msd", "msd_frozen"), "din"


def main(
    folder: Annotated[Path, typer.Argument(help="With movies.csv and ratings.csv.")],
    work: Annotated[Path | None, typer.Option("--work", help="Keeps the datasets for the next time.")] = None,
    seeds: Annotated[str, typer.Option("--seeds", help="Training seeds.")] = "1,2,3,4,5",
) -> None:
    """Runs the whole flow and prints the table and the figures of cold items."""
    with ExitStack() as stack:
        root = work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="msd-cold-")))
        plan = plan_of(root, f"{SOURCE}:{folder.resolve()}", "small", [])
        trained = replace(plan.settings["ctr_model"], seeds=parse_numbers(seeds, "--seeds", "1,2,3,4,5"))
        plan = runner.make_plan(plan.workspace, plan.source, {**plan.settings, "ctr_model": trained})
        runner.run(plan, ["report"])
        report = json.loads((plan.dataset("report").folder / "report.json").read_text(encoding="utf-8"))
    print_results(report)
    _print_cold(report["cold"])


def _print_cold(cold: dict[str, Any]) -> None:
    print(f"fewer than {cold['exposures_below']} exposures: {cold['rows']:,} rows, {cold['items']:,} items")
    for arm in cold["arms"]:
        low, high = arm["auc_ci"]
        delta = arm["delta_auc_vs"].get(OPPONENT)
        told = "" if delta is None else f", against {OPPONENT} {delta[1]:+.4f} [{delta[0]:+.4f}, {delta[2]:+.4f}]"
        print(f"  {arm['name']:18s} {arm['auc']:.4f} [{low:.4f}, {high:.4f}]{told}")
        if arm["name"] in SEMANTIC:
            is_kept = delta[0] > 0 and delta[1] >= WANTED
            verdict = "kept" if is_kept else "MISSED"
            print(f"    a lead of {WANTED} over {OPPONENT} with its interval above zero: {verdict}")


if __name__ == "__main__":
    typer.run(main)
