"""How many of 500 real titles the small teacher answers in a form that can be used, retries included.

SmolLM2-135M reads 500 films of MovieLens-100K through the stage as it stands. Wanted: 99.5% valid.
`python benchmarks/teacher_valid.py [WORK]` keeps what it generates where a work folder is given.
"""

import sys
import tempfile
from collections import Counter
from pathlib import Path

from pipeline.runner import make_plan, run
from pipeline.settings import resolve
from pipeline.source import load_source
from pipeline.storage import Workspace

TITLES, WANTED = 500, 0.995
DRAWN = 512
"""Strata are rounded: a few more are drawn than are counted."""


def main() -> None:
    """Makes the rows and prints the share that is valid after one attempt and after all."""
    if len(sys.argv) > 1:
        measure(Path(sys.argv[1]))
        return
    with tempfile.TemporaryDirectory(prefix="msd-valid-") as work:
        measure(Path(work))


def measure(work: Path) -> None:
    """Prints the shares."""
    settings = resolve(
        "small",
        [f"prompts.item_rows={DRAWN}", "prompts.user_rows=0", "prompts.near_duplicate=2.0"],
    )
    plan = make_plan(Workspace(work), load_source("movielens-100k"), settings)
    run(plan, ["teacher_outputs"])
    rows = plan.dataset("teacher_outputs").table(["status", "reason", "attempts"]).to_pylist()[:TITLES]
    first = sum(row["status"] == "ok" and row["attempts"] == 1 for row in rows)
    valid = sum(row["status"] == "ok" for row in rows)
    reasons = Counter(row["reason"] for row in rows if row["reason"])
    print(
        f"{len(rows)} titles: {first / len(rows):.2%} valid at the first attempt, {valid / len(rows):.2%} after retries"
    )
    verdict = "kept" if valid >= WANTED * len(rows) else "MISSED"
    print(f"rejected: {dict(reasons) or 'none'}; wanted {WANTED:.1%}: {verdict}")


if __name__ == "__main__":
    main()
