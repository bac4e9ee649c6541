"""What narrower vectors in Redis cost in AUC and save in bytes.

Models are trained on the planted world's vectors as the student gives them. Then their test rows are scored with the
vectors a reader gets back from Redis under each precision and number of principal components: the same weights, so that
the difference is the codec's alone, with an interval over users and seeds. Bytes are measured on the server, all
features of a key together.

`python benchmarks/vector_precision.py [--work DIR] [--seeds 1,2,3]` (about six minutes on two cores)
"""

import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from feature_repo.feature_pair import open_codec
from feature_repo.redis_server import running_redis
from feature_repo.vector_codec import Codec
from msd_models.arms_file import read_arms
from msd_models.bootstrap import Resampled
from msd_models.comparison import resample
from msd_models.ctr_inputs import CtrInputs
from msd_models.ctr_job import Job, load_weights, untrained
from msd_models.ctr_records import open_inputs
from msd_models.fitting import SCORING_ROWS, score
from msd_models.scores import ScoredRows, read_scores
from msd_models.vector_alignment import align_vectors, open_vectors
from msd_models.vector_tables import ArmTables, SemanticVectors, VectorSource, VectorTable
from pipeline import runner
from pipeline.ablation import parse_numbers
from pipeline.call import plan_of
from pipeline.runner import Plan
from pipeline.stages import BY_NAME

ARM = "msd_frozen"
ROUNDS = 2000
PRECISIONS = ("float32", "float16", "int8")
SHARES = (2, 4, 8)
"""Of the student's numbers, the first 1/n principal components are kept."""
LEVELS = {"items": "item_features", "users": "user_features"}


@dataclass(frozen=True, kw_only=True)
class Served:
    """One way of keeping vectors in Redis."""

    name: str
    bytes_per_item: float
    codec: Codec


def main(
    work: Annotated[Path | None, typer.Option("--work", help="Keeps the world's datasets for the next time.")] = None,
    seeds: Annotated[str, typer.Option("--seeds", help="Training seeds.")] = "1,2,3",
) -> None:
    """Trains, publishes under every codec, scores and prints."""
    with ExitStack() as stack:
        folder = work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="msd-precision-")))
        plan = plan_of(folder, "tiny-world", "tiny-world", [])
        arms = replace(plan.settings["ctr_model"], arms=(ARM, "din"), seeds=parse_numbers(seeds, "--seeds", "1,2,3"))
        plan = runner.make_plan(plan.workspace, plan.source, {**plan.settings, "ctr_model": arms})
        runner.run(plan, ["ctr_model"])
        stack.enter_context(running_redis(plan.workspace.root))
        dim = plan.dataset("item_features").details["dim"]
        kept = [0, *(dim // share for share in SHARES)]
        ways = [_served(plan, precision, dimensions) for dimensions in kept for precision in PRECISIONS]
        rows = _with_codecs(plan, read_scores(plan.dataset("ctr_model")), ways)
    _print(ways, resample(rows, list(rows.scores), rounds=ROUNDS, seed=0), dim)


def _served(plan: Plan, precision: str, dimensions: int) -> Served:
    """Publishes the world's vectors so, beside the other generations."""
    chosen = replace(plan.settings["publication"], precision=precision, dimensions=dimensions, activate=False)
    own = runner.make_plan(plan.workspace, plan.source, {**plan.settings, "publication": chosen})
    runner.run(own, ["publication"])
    receipt = own.dataset("publication")
    return Served(
        name=f"{precision}, {f'{dimensions} components' if dimensions else 'whole'}",
        bytes_per_item=receipt.details["bytes_per_key"]["item"],
        codec=open_codec(receipt.folder),
    )


def _with_codecs(plan: Plan, rows: ScoredRows, ways: list[Served]) -> ScoredRows:
    """The test rows with one more arm for each codec."""
    config, dataset = plan.settings["ctr_model"], plan.dataset("ctr_model")
    records = plan.dataset("ctr_records")
    inputs = open_inputs(records.folder)
    names = BY_NAME["ctr_model"].inputs
    with tempfile.TemporaryDirectory(prefix="msd-aligned-") as folder:
        align_vectors(Path(folder), {name: plan.dataset(name) for name in names}, {VectorSource.STUDENT})
        vectors = open_vectors(Path(folder))
        jobs = [
            Job(arm=ARM, seed=seed, config=config, records=records.folder, vectors=Path(folder), folder=dataset.folder)
            for seed in config.seeds
        ]
        plain = np.stack([_scores(job, inputs, vectors) for job in jobs])
        assert np.allclose(plain, rows.scores[ARM], atol=1e-5), "the weights as saved give other scores than training"
        scored = {
            way.name: np.stack([_scores(job, inputs, _through(way.codec, vectors)) for job in jobs]) for way in ways
        }
    runs = {**rows.runs, **{way.name: rows.runs[ARM] for way in ways}}
    return replace(rows, scores={**rows.scores, **scored}, runs=runs)


def _scores(job: Job, inputs: CtrInputs, vectors: SemanticVectors) -> npt.NDArray[np.float64]:
    """Test scores in event order."""
    arms = read_arms(job.config.arms_file)
    network = untrained(job, arms[job.arm], arms, inputs, vectors)
    network.load_served(load_weights(job.weights_path))
    network.eval()
    event_ids, scores = [], []
    for records in inputs.records["test"].batches(16 * SCORING_ROWS):
        parts = (records[first : first + SCORING_ROWS] for first in range(0, len(records), SCORING_ROWS))
        scores.append(score(network, inputs, parts))
        event_ids.append(records["event_id"])
    return np.concatenate(scores)[np.argsort(np.concatenate(event_ids))].astype(np.float64)


def _through(codec: Codec, vectors: SemanticVectors) -> SemanticVectors:
    """The same tables as a reader of Redis sees them; texts of events are not kept there."""
    student = vectors.tables[VectorSource.STUDENT]
    tables = ArmTables(
        items=_coded(codec, student.items), users=_coded(codec, student.users), contexts=student.contexts
    )
    return replace(vectors, tables={**vectors.tables, VectorSource.STUDENT: tables})


def _coded(codec: Codec, table: VectorTable) -> VectorTable:
    return replace(table, vectors_ND=codec.decode(codec.encode(np.asarray(table.vectors_ND)).payload_NB))


def _print(ways: list[Served], resampled: Resampled, dim: int) -> None:
    print(
        f"{ARM}, {dim} numbers a vector: AUC {resampled.mean(ARM):.4f}; din without vectors {resampled.mean('din'):.4f}"
    )
    print(f"{'kept in Redis':<22} {'bytes per item':>14} {'AUC':>7}   difference [95%]")
    for way in ways:
        low, mean, high = resampled.difference(way.name, ARM)
        told = f"{mean:+.5f} [{low:+.5f}, {high:+.5f}]"
        print(f"{way.name:<22} {way.bytes_per_item:>14,.0f} {resampled.mean(way.name):>7.4f}   {told}")
    exact = _difference(resampled, ways[0].name)
    sys.exit(0 if exact == 0.0 else 1)


def _difference(resampled: Resampled, name: str) -> Any:
    return round(resampled.difference(name, ARM)[1], 12)


if __name__ == "__main__":
    typer.run(main)
