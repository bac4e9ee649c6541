"""`msd ablate`: the paper's Tables 2 and 3 on one's own data, as one ordinary ctr_model under other arms.

Everything above the click models is shared with the ordinary run, and the run resumes like one: an arm and seed that is
trained is not trained again.
"""

import json
from collections.abc import Sequence
from dataclasses import replace

from pipeline import runner
from pipeline.config import CtrModel
from pipeline.errors import UsageError
from pipeline.job import load
from pipeline.progress import note
from pipeline.runner import Plan
from pipeline.storage import write_atomically

TABLES = {
    2: (
        "deepfm",
        "din",
        "dcnv2",
        "mlp",
        "random_vectors",
        "shuffled_vectors",
        "raw_text",
        "kar",
        "elec_gain",
        "elec_vanilla",
        "msd",
    ),
    3: ("msd", "msd_frozen", "msd_no_fusion", "msd_no_user"),
}
"""The arms of each table, in its order; those of msd_models/arms.toml."""
MASKS = ("popular", "rare", "word2vec", "none")
TOP_KS = (1, 3, 5, 10, 20)
"""Table 3 goes on with MSD under these, but for its own mask and k."""
REFERENCES = ("deepfm", "din")
"""Trained whatever the table: RelaImpr and Δ AUC are to them."""
DEFAULT_TABLES = "2,3"
FOLDER = "ablation"


def parse_numbers(text: str, option: str, example: str) -> tuple[int, ...]:
    """The numbers of `1,2,3`, in their order, each once.

    Raises:
        UsageError: none, or something else among them.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() for part in parts):
        raise UsageError(f"{option} {text}: wanted whole numbers with commas between, such as {example}")
    return tuple(dict.fromkeys(int(part) for part in parts))


def parse_tables(text: str) -> tuple[int, ...]:
    """The tables of `2,3`.

    Raises:
        UsageError: none, or another table.
    """
    tables = parse_numbers(text, "--tables", DEFAULT_TABLES)
    unknown = [number for number in tables if number not in TABLES]
    if unknown:
        raise UsageError(f"--tables {text}: there is no table {unknown[0]}; choose {DEFAULT_TABLES}, 2 or 3")
    return tables


def ablate(plan: Plan, tables: Sequence[int], seeds: Sequence[int]) -> list[str]:
    """Trains the tables' arms and writes ablation.json, .md, .txt, .png and .svg into the work folder's `ablation/`.

    Args:
        plan: whose source and settings hold for everything but the arms.
        tables: 2, 3 or both.
        seeds: of the trainings; empty takes the plan's.

    Returns:
        The tables' lines.
    """
    chosen = ablation_plan(plan, tables, seeds)
    runner.run(chosen, ["ctr_model", "audit"])
    wanted = {number: table_arms(number, chosen.settings["ctr_model"]) for number in tables}
    made = (chosen.dataset(name) for name in ("ctr_model", "audit", "tuned_student"))
    facts = load("msd_models.ablation_table:measure")(*made, wanted)
    lines: list[str] = load("msd_models.ablation_table:text_lines")(facts)
    pages = {
        "ablation.json": json.dumps(facts, indent=1),
        "ablation.md": load("msd_models.ablation_table:markdown")(facts),
        "ablation.txt": "\n".join(lines) + "\n",
    }
    folder = plan.workspace.root / FOLDER
    for name, text in pages.items():
        write_atomically(folder / name, text.encode())
    load("msd_models.ablation_table:draw")(folder, facts)
    note(f"ablation: {folder / 'ablation.md'} and {folder / 'ablation.png'}")
    return lines


def ablation_plan(plan: Plan, tables: Sequence[int], seeds: Sequence[int]) -> Plan:
    """The same plan with the tables' arms, and other seeds where some are given."""
    trained = plan.settings["ctr_model"]
    arms = dict.fromkeys([*REFERENCES, *(arm for number in sorted(tables) for arm in table_arms(number, trained))])
    trained = replace(trained, arms=tuple(arms), seeds=tuple(seeds) or trained.seeds)
    return runner.make_plan(plan.workspace, plan.source, {**plan.settings, "ctr_model": trained})


def table_arms(number: int, trained: CtrModel) -> tuple[str, ...]:
    """The arms of a table, under settings whose mask and k are MSD's own."""
    if number != 3:
        return TABLES[number]
    masks = [f"msd_mask_{mask}" for mask in MASKS if mask != trained.mask]
    top_ks = [f"msd_k_{top_k}" for top_k in TOP_KS if top_k != trained.top_k]
    return (*TABLES[3], *masks, *top_ks)
