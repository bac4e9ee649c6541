"""The results table on the terminal, from report.json alone."""

from typing import Any

from rich.console import Console
from rich.table import Table

COLUMNS = ("arm", "AUC, 95% interval", "Δ AUC vs din, 95% interval", "RelaImpr", "GAUC impr.", "GAUC user", "logloss")
WIDE_CHARACTERS = 116
MAX_SENTENCES = 3
FINDINGS = {
    "gain": "Beats both of its placebos",
    "recovers": "Reads no vectors and keeps some of the lead it was taught",
    "no_difference": "Not distinguishable, or nothing to recover",
    "worse": "Worse than a placebo",
    "no_claim": "No claim can be made",
}
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
    for sentence in told(report):
        console.print(sentence, markup=False)


def told(report: dict[str, Any]) -> list[str]:
    """The verdict in a few lines: with many arms the findings by kind, whose sentences report.html has."""
    verdict: list[str] = list(report.get("verdict", []))
    claims = report.get("claims", [])
    audit = report.get("audit", {})
    if audit.get("leaks"):
        return verdict
    if len(claims) > MAX_SENTENCES:
        found: dict[str, list[str]] = {}
        for claim in claims:
            found.setdefault(claim["finding"], []).append(claim["arm"])
        verdict = [f"{FINDINGS.get(finding, finding)}: {', '.join(arms)}" for finding, arms in found.items()]
    beside = (_cold(report.get("cold")), *_kept(report["arms"]), audit.get("sentence", ""))
    return verdict + [line for line in beside if line]


def _cold(cold: dict[str, Any] | None) -> str:
    if not cold:
        return ""
    known = [(arm["name"], arm["delta_auc_vs"].get("din")) for arm in cold["arms"] if arm["kind"] == "semantic"]
    known.sort(key=lambda one: one[0] != "msd")
    shown = [f"{name} {_delta(delta)}" for name, delta in known if delta and None not in delta]
    head = f"Cold items (fewer than {cold['exposures_below']} exposures, {cold['rows']:,} rows), Δ AUC vs din"
    return f"{head}: {', '.join(shown[:MAX_SENTENCES])}" if shown else ""


def _kept(arms: list[dict[str, Any]]) -> list[str]:
    shares = [(arm["name"], (arm.get("gap_recovered") or {}).get("share")) for arm in arms]
    return [
        f"{name} keeps {share[1]:.0%} [{share[0]:.0%}, {share[2]:.0%}] of the lead it was taught, without vectors"
        for name, share in shares
        if share and None not in share
    ]


def _row(arm: dict[str, Any]) -> tuple[str, ...]:
    low, high = arm["auc_ci"]
    delta = arm.get("delta_auc_vs", {}).get("din")
    return (
        arm["name"],
        f"{arm['auc']:.4f} [{low:.4f}, {high:.4f}]",
        "–" if delta is None else _delta(delta),
        _number(arm.get("rela_impr"), "+.2f"),
        _number(arm.get("gauc_impression"), ".4f"),
        _number(arm.get("gauc_user"), ".4f"),
        _number(arm.get("logloss"), ".4f"),
    )


def _delta(delta: list[float]) -> str:
    return f"{delta[1]:+.4f} [{delta[0]:+.4f}, {delta[2]:+.4f}]"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
