"""Whether readers may be pointed at a generation: its vectors, the student's phrases, clicks against what they have.

Three questions, each with a figure and a bound, in a verdict that is kept in WORK/gates/ and that activation heeds:

- vectors: the publication's own checks, made again on the files and against what readers have now
- phrase_f1: the student's F1 on held-out teacher rows
- canary: a small CTR model on these vectors against the same one on the active generation's, on the same test rows

The third is where a space fails that looks well by itself. Its bound is put to the measured loss and not to the end of
its interval: a gate that waited for significance would let a slow decline through day by day, so the interval is told
beside it, for whoever has to decide.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline import runner
from pipeline.checks import Check, at_least, broken, joined
from pipeline.errors import StageError
from pipeline.job import Job, load
from pipeline.runner import Plan
from pipeline.stages import BY_NAME
from pipeline.storage import Dataset, Outcome, write_atomically

FOLDER = "gates"
FEATURES = ("item_features", "user_features")
CANARY = "canary_model"
ROUNDS = 1000
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a generation has to keep."""

    min_f1: float
    max_auc_loss: float
    allow_missing: bool = False
    """Lets a generation pass whose canary cannot be compared, as the active generation's files are gone."""


def judge(plan: Plan, bounds: Bounds) -> dict[str, Any]:
    """Judges the plan's publication and keeps the verdict.

    Args:
        plan: its publication is made; canary_model and what it needs are made here.
        bounds: see Bounds.

    Returns:
        `date`, `generation`, `space_id`, `active` (None for a first publication), `is_open`, `checks`, `judged_at`.

    Raises:
        StageError: the publication is not made yet.
        ServiceError: Redis cannot be reached.
    """
    publication = plan.dataset("publication")
    if publication.manifest is None:
        call = f" --date {plan.date}" if plan.date else ""
        raise StageError(
            f"publication is not made yet, and nothing can be judged; run: msd publish{call} --no-activate"
        )
    active = load("feature_repo.gate:active_generation")(plan.workspace)
    checks = [_vectors(plan, publication), _phrases(plan, bounds), _clicks(plan, active, bounds)]
    verdict = {
        "date": plan.date,
        "generation": publication.fingerprint,
        "space_id": publication.details["space_id"],
        "active": None if active is None else {"generation": active.generation, "space_id": active.space_id},
        "is_open": all(check.passed for check in checks),
        "checks": [check.to_json() for check in checks],
        "judged_at": datetime.now(UTC).isoformat(timespec="microseconds"),
    }
    name = plan.date or publication.fingerprint
    write_atomically(plan.workspace.root / FOLDER / f"{name}.json", json.dumps(verdict, indent=1).encode())
    return verdict


def latest_verdict(work: Path, generation: str) -> dict[str, Any] | None:
    """What was last said of a generation; None where it was never judged."""
    verdicts = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((work / FOLDER).glob("*.json"))]
    of_it = [verdict for verdict in verdicts if verdict["generation"] == generation]
    return max(of_it, key=lambda verdict: str(verdict["judged_at"])) if of_it else None


def reasons(verdict: Mapping[str, Any]) -> str:
    """Why a gate is closed."""
    return joined(broken(verdict["checks"]))


def figures(verdict: Mapping[str, Any]) -> dict[str, float | None]:
    """A verdict's figures, by the names that metrics have."""
    checks = {check["name"]: check for check in verdict["checks"]}
    return {
        "phrase_f1": checks["phrase_f1"]["figure"],
        "phrase_f1_floor": checks["phrase_f1"]["bound"],
        "auc_loss": checks["canary"]["figure"],
        "auc_loss_bound": checks["canary"]["bound"],
    }


def check_open(work: Path, generation: str) -> None:
    """Raises a StageError where the last verdict on a generation is that readers may not have it."""
    verdict = latest_verdict(work, generation)
    if verdict is not None and not verdict["is_open"]:
        call = f" --date {verdict['date']}" if verdict["date"] else ""
        raise StageError(
            f"the gate is closed for the generation {generation}: {reasons(verdict)}; readers stay where"
            f" they are; judge it again: msd gate{call}; or add --despite-gate"
        )


def _vectors(plan: Plan, publication: Dataset) -> Check:
    features = [plan.dataset(name) for name in FEATURES]
    try:
        found = load("feature_repo.gate:judge_vectors")(plan.settings["publication"], publication, features)
    except StageError as error:
        return Check(name="vectors", passed=False, told=str(error))
    coverage = float(found["coverage"]["items"])
    told = (
        f"{coverage:.1%} of the catalogue has a vector; norms, collapse, duplicates and drift are within their bounds"
    )
    bound = plan.settings["publication"].min_coverage
    return Check(name="vectors", passed=True, told=told, figure=coverage, bound=bound, facts=_figures(found))


def _figures(found: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of the vector checks, by dataset."""
    wanted = ("norm_median", "mean_cosine", "effective_rank", "duplicate_share")
    return {
        name: {key: found[name][key] for key in wanted if key in found[name]}
        | ({"drift": found[name]["against_active"].get("drift")} if "against_active" in found[name] else {})
        for name in FEATURES
    }


def _phrases(plan: Plan, bounds: Bounds) -> Check:
    details = plan.dataset("student").details
    figure, interval = details.get("f1_micro"), details.get("f1_micro_interval")
    if figure is None:
        told = "the student has no phrase F1, as no teacher row was held out; see: msd show student"
        return Check(name="phrase_f1", passed=bounds.min_f1 <= 0, told=told, bound=bounds.min_f1)
    what = "the student's phrase F1" + (f" (95% interval {interval[0]:.3f} to {interval[1]:.3f})" if interval else "")
    return at_least(
        "phrase_f1", what, float(figure), bounds.min_f1, interval=interval, gold_rows=details.get("gold_rows")
    )


def _clicks(plan: Plan, active: Any, bounds: Bounds) -> Check:
    bound = bounds.max_auc_loss
    if active is None:
        told = "nothing is active yet: a first generation has nothing to lose against"
        return Check(name="canary", passed=True, told=told, bound=bound, facts={"compared": "nothing active"})
    if active.features is None:
        told = (
            f"the files of the active generation {active.generation} are not in {plan.workspace.root}, so that no loss"
            " can be measured; --allow-missing lets this generation pass"
        )
        facts = {"compared": "files of the active generation missing"}
        return Check(name="canary", passed=bounds.allow_missing, told=told, bound=bound, facts=facts)
    if all(active.features[name].fingerprint == plan.dataset(name).fingerprint for name in FEATURES):
        told = f"the active generation {active.generation} has the same vectors"
        return Check(name="canary", passed=True, told=told, figure=0.0, bound=bound, facts={"compared": "same vectors"})
    loss = load("msd_models.canary_comparison:compare_canaries")(
        *_canaries(plan, active.features), rounds=ROUNDS, seed=SEED
    )
    return _judged(loss, active.generation, bounds)


def _canaries(plan: Plan, features: Mapping[str, Dataset]) -> Sequence[Dataset]:
    """canary_model on the plan's vectors and on others, of the same records."""
    runner.run(plan, [CANARY])
    pinned = {name: features[name].fingerprint for name in FEATURES} | {"ctr_records": plan.fingerprints["ctr_records"]}
    other = runner.make_plan(plan.workspace, plan.source, plan.settings, pinned=pinned)
    stage = BY_NAME[CANARY]

    def on_those(job: Job) -> Outcome:
        # Readers may have the tuned student's features, whose folders have names of their own.
        outcome: Outcome = load(stage.maker)(job.config, job.output.folder, **{**job.inputs, **features})
        return outcome

    runner.run_stage(other, stage, on_those)
    return plan.dataset(CANARY), other.dataset(CANARY)


def _judged(loss: Any, active: str, bounds: Bounds) -> Check:
    compared = f"on {loss.compared_rows:,} of {loss.rows:,} test rows that both generations have vectors for"
    facts = {"compared": compared, **vars(loss)}
    if loss.interval is None:
        told = f"AUC cannot be compared with the generation {active} {compared}: one class only, or too few users"
        return Check(name="canary", passed=bounds.allow_missing, told=told, bound=bounds.max_auc_loss, facts=facts)
    low, measured, high = loss.interval
    told = (
        f"AUC {loss.new_auc:.4f}, {loss.active_auc:.4f} on the vectors of the active generation {active}: a loss of"
        f" {measured:+.4f} (95% interval {low:+.4f} to {high:+.4f}), wanted {bounds.max_auc_loss:.4f} or less;"
        f" {compared}"
    )
    return Check(
        name="canary",
        passed=measured <= bounds.max_auc_loss,
        told=told,
        figure=measured,
        bound=bounds.max_auc_loss,
        facts=facts,
    )
