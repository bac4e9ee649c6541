"""The results table on the terminal, from report.json alone."""

from typing import Any

from rich.console import Console
from rich.table import Table

COLUMNS = ("arm", "AUC, 95% interval", "Δ AUC vs din, 95% interval", "RelaImpr", "GAUC impr.", "GAUC user", "logloss")
WIDE_CHARACTERS = 116
NARROW_COLUMNS = 4
"""How many of the columns an ordinary terminal of 80 characters shows; report.html has them all."""


def results_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row of texts per arm, in the report's order, as COLUMNS names them; a dash where the report has no number."""
    return [_row(arm) for arm in report["arms"]]


def print_results(report: dict[str, Any]) -> None:
    """Prints the table and the verdict to stdout."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDE_CHARACTERS)
    split = report["split"]
    title = f"{report['source']}: {split['test']:,} test labels, {len(report['seeds'])} seeds"
    table = Table(title=title, title_justify="left", box=None)
    shown = len(COLUMNS) if console.width >= WIDE_CHARACTERS else NARROW_COLUMNS
    for position, column in enumerate(COLUMNS[:shown]):
        table.add_column(column, justify="left" if position == 0 else "right", no_wrap=True)
    for row in results_rows(report):
        table.add_row(*row[:shown])
    console.print(table)
    for sentence in report.get("verdict", []):
        console.print(sentence, markup=False)


def _row(arm: dict[str, Any]) -> tuple[str, ...]:
    low, high = arm["auc_ci"]
    delta = arm.get("delta_auc_vs", {}).get("din")
    return (
        arm["name"],
        f"{arm['auc']:.4f} [{low:.4f}, {high:.4f}]",
        "–" if delta is None else f"{delta[1]:+.4f} [{delta[0]:+.4f}, {delta[2]:+.4f}]",
        _number(arm.get("rela_impr"), "+.2f"),
        _number(arm.get("gauc_impression"), ".4f"),
        _number(arm.get("gauc_user"), ".4f"),
        _number(arm.get("logloss"), ".4f"),
    )


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
