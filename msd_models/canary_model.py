"""canary_model: one small arm on the vectors of one generation, so that a new space meets clicks before readers do.

The records are those of the day; the vectors are those of the features given, which may be another generation's. They
are laid into the rows that the records name: an item's by its id, a user's as the latest snapshot not after the
record's own, which is what readers of that generation would have been given at that moment. Two canaries of the same
records therefore differ by their vectors alone, down to the initial weights and the order of batches.
"""

# Letters: N rows of the tables that the records name, V rows of the features given.

import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from msd_models.arms_file import read_arms
from msd_models.ctr_inputs import CtrInputs
from msd_models.ctr_job import Job, outcome_line, train_one
from msd_models.ctr_records import open_inputs, positions
from msd_models.ctr_settings import check_settings
from msd_models.language_model import cpu_threads
from msd_models.vector_tables import ArmTables, Rows, SemanticVectors, VectorSource, VectorTable, user_codes
from pipeline.config import CanaryModel, CtrModel
from pipeline.errors import ConfigError, SpaceMismatch, StageError
from pipeline.progress import note, progress
from pipeline.storage import Dataset, Outcome, write_shard

KNOWN_FILE = "known.parquet"
KNOWN = pa.schema(
    [
        ("event_id", pa.int64()),
        ("is_click", pa.int8()),
        ("user_id", pa.string()),
        ("has_item_vector", pa.bool_()),
        ("has_user_vector", pa.bool_()),
    ]
)
"""Of each test example, by event: whose it is, and which vectors this generation has for it."""


def train_canary(
    config: CanaryModel, folder: Path, ctr_records: Dataset, item_features: Dataset, user_features: Dataset
) -> Outcome:
    """Trains config.arm with each seed on the vectors of two datasets of features.

    Args:
        config: of the stage.
        folder: gets checkpoints/, predictions/ and runs/ as ctr_model has them, and KNOWN_FILE.
        ctr_records: the examples; they need not be made of the features given.
        item_features: of the generation that is tried; a tuned student's go by another name.
        user_features: likewise.

    Raises:
        ConfigError: an unknown arm, one that reads other vectors than a generation's, or a setting out of its range.
        SpaceMismatch: items and users are of two spaces.
        StageError: the features that the records were made of are gone.
    """
    settings = _settings(config)
    inputs = open_inputs(ctr_records.folder)
    vectors = _vectors(ctr_records, item_features, user_features)
    write_shard(folder / KNOWN_FILE, _known(inputs, vectors.tables[VectorSource.STUDENT]))
    places = {"records": ctr_records.folder, "vectors": folder, "folder": folder}
    jobs = [Job(arm=config.arm, seed=seed, config=settings, **places) for seed in config.seeds]
    pending = [job for job in jobs if not job.run_path.is_file()]
    with (
        progress("canary_model", len(pending) * config.max_epochs * inputs.num_rows("train")) as advance,
        cpu_threads(config.threads),
    ):
        for job in pending:
            note(outcome_line(job, train_one(job, inputs, vectors, advance)))
    shutil.rmtree(folder / "unfinished", ignore_errors=True)
    rows = sum(len(file) for file in inputs.records.values())
    details = {"arms": [config.arm], "seeds": list(config.seeds), "space_id": vectors.space_id}
    return Outcome(rows_in=rows, rows_ok=rows, details=details)


def _settings(config: CanaryModel) -> CtrModel:
    """The settings of the training, those of ctr_model where the canary has none of its own."""
    arms = read_arms()
    if config.arm not in arms:
        raise ConfigError(f"[canary_model] arm is '{config.arm}'; choose one of {', '.join(arms)}")
    arm = arms[config.arm]
    if arm.vectors is not VectorSource.STUDENT or arm.learns_from:
        readers = [name for name, one in arms.items() if one.vectors is VectorSource.STUDENT]
        raise ConfigError(
            f"[canary_model] arm is '{config.arm}', which does not read a generation's vectors; choose one of"
            f" {', '.join(readers)}"
        )
    shared = {one.name for one in fields(CanaryModel)} & {one.name for one in fields(CtrModel)}
    settings = CtrModel(arms=(config.arm,), **{name: getattr(config, name) for name in shared})
    check_settings("", settings)
    return settings


def _vectors(ctr_records: Dataset, item_features: Dataset, user_features: Dataset) -> SemanticVectors:
    """The vectors of the features given, in the rows that the records name."""
    spaces = {each.name: str(each.details["space_id"]) for each in (item_features, user_features)}
    if len(set(spaces.values())) > 1:
        told = ", ".join(f"{name} in {space}" for name, space in spaces.items())
        raise SpaceMismatch(f"canary_model: {told}, and one model reads one space; run: msd run publication")
    named_items = _rows(_named_by(ctr_records, "item_features"), ["item_id"])
    named_users = _rows(_named_by(ctr_records, "user_features"), ["user_id", "snapshot_at"])
    items, users = _rows(item_features, ["item_id"]), _rows(user_features, ["user_id", "snapshot_at"])
    place_N = np.where(
        pc.equal(named_items.column("item_id"), "").to_numpy(),
        -1,
        positions(named_items.column("item_id"), items.column("item_id")),
    )
    user_N = user_codes(named_users.column("user_id"))
    item_table = _table(item_features, place_N)
    none = np.zeros((0, item_table.dim), dtype=np.float32)
    tables = ArmTables(
        items=item_table,
        users=_table(user_features, latest_before(named_users, users)),
        # Texts of events are in no generation, so that no canary reads them.
        contexts=VectorTable(vectors_ND=none, has_vector_N=np.zeros(0, dtype=np.bool_), space_id=item_table.space_id),
    )
    time_N = named_users.column("snapshot_at").cast("int64").to_numpy()
    return SemanticVectors(tables={VectorSource.STUDENT: tables}, user_N=user_N, time_N=time_N)


def latest_before(wanted: pa.Table, known: pa.Table) -> Rows:
    """For each wanted row the place of the latest known row of the same user that is not later; -1 for none.

    Args:
        wanted: [N] with user_id and snapshot_at.
        known: [V] likewise; '' is the id that erased users have, and matches nobody.
    """
    both = pa.concat_tables([known.select(["user_id", "snapshot_at"]), wanted.select(["user_id", "snapshot_at"])])
    user = user_codes(both.column("user_id"))
    time = both.column("snapshot_at").cast("int64").to_numpy()
    is_known = np.arange(len(both)) < len(known)
    # Of one user and time the known row comes first.
    order = np.lexsort((~is_known, time, user))
    latest = np.maximum.accumulate(np.where(is_known[order], np.arange(len(order)), -1))
    place = np.where(latest >= 0, order[latest], -1)
    is_same = (place >= 0) & (user[place] == user[order])
    found = np.empty(len(both), dtype=np.int64)
    found[order] = np.where(is_same, place, -1)
    is_nobody = pc.equal(wanted.column("user_id"), "").to_numpy()
    return np.where(is_nobody, -1, found[len(known) :])


def _named_by(ctr_records: Dataset, name: str) -> Dataset:
    """The dataset of features whose rows the records name."""
    manifest = ctr_records.manifest
    assert manifest is not None, "an input is committed"
    fingerprint = str(manifest["inputs"][name])
    return Dataset(
        name=name, fingerprint=fingerprint, folder=ctr_records.folder.parents[1] / name / fingerprint, schema=None
    )


def _rows(features: Dataset, keys: list[str]) -> pa.Table:
    """The keys of a dataset's vectors, in their order."""
    path = features.folder / "rows.parquet"
    if not path.is_file():
        raise StageError(f"canary_model: {features.name}/{features.fingerprint} is gone; run: msd run {features.name}")
    return pq.read_table(path, columns=["vector_row", *keys], partitioning=None).sort_by("vector_row")


def _table(features: Dataset, place_N: Rows) -> VectorTable:
    vectors_ND = np.load(features.folder / "vectors.npy", mmap_mode="r")
    return VectorTable(
        vectors_ND=vectors_ND,
        has_vector_N=place_N >= 0,
        space_id=str(features.details["space_id"]),
        deal_N=np.maximum(place_N, 0),
    )


def _known(inputs: CtrInputs, tables: ArmTables) -> pa.Table:
    """KNOWN of the test examples, by event."""
    records = inputs.records["test"].read(0, inputs.num_rows("test"))
    has_item_R, has_user_R = (np.append(False, table.has_vector_N) for table in (tables.items, tables.users))
    user_ids = pq.read_table(inputs.folder / "users.parquet", partitioning=None).column("user_id")
    columns = {
        "event_id": records["event_id"],
        "is_click": records["click"].astype(np.int8),
        "user_id": user_ids.take(pa.array(records["user"] - 1)),
        "has_item_vector": has_item_R[records["item_row"]],
        "has_user_vector": has_user_R[records["user_row"]],
    }
    return pa.table(columns, schema=KNOWN).sort_by("event_id")
