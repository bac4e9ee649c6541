"""The results table on the terminal, from report.json alone."""

from typing import Any

from rich.console import Console
from rich.table import Table

COLUMNS = ("arm", "AUC", "95% interval", "GAUC impr.", "GAUC user", "logloss", "RelaImpr", "Δ AUC vs din")


def results_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row of texts per arm, in the report's order, as COLUMNS names them; a dash where the report has no number."""
    return [_row(arm) for arm in report["arms"]]


def print_results(report: dict[str, Any]) -> None:
    """Prints the table and the verdict to stdout."""
    console = Console(highlight=False)
    split = report["split"]
    title = f"{report['source']}: {split['test']:,} test labels, {len(report['seeds'])} seeds"
    table = Table(title=title, title_justify="left")
    for position, column in enumerate(COLUMNS):
        table.add_column(column, justify="left" if position == 0 else "right")
    for row in results_rows(report):
        table.add_row(*row)
    console.print(table)
    for sentence in report.get("verdict", []):
        console.print(sentence, markup=False)


def _row(arm: dict[str, Any]) -> tuple[str, ...]:
    low, high = arm["auc_ci"]
    delta = arm.get("delta_auc_vs", {}).get("din")
    return (
        arm["name"],
        _number(arm["auc"], ".4f"),
        f"{low:.4f} … {high:.4f}",
        _number(arm.get("gauc_impression"), ".4f"),
        _number(arm.get("gauc_user"), ".4f"),
        _number(arm.get("logloss"), ".4f"),
        _number(arm.get("rela_impr"), "+.2f"),
        "–" if delta is None else f"{delta[1]:+.4f} [{delta[0]:+.4f}, {delta[2]:+.4f}]",
    )


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
