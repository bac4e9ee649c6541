"""Vector datasets laid out in the rows of the published tables, as `.npy` files that trainings map into memory.

Written once per ctr_model run, one batch in memory at a time; every process of a training opens the same files.
"""

# Letters: N rows of the published table, V rows of a vector dataset, D numbers in a vector, B rows of a batch.

import json
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from msd_models.vector_tables import ArmTables, Rows, SemanticVectors, VectorSource, VectorTable, user_codes
from pipeline.errors import SpaceMismatch, StageError
from pipeline.storage import Dataset, write_atomically, write_shard

BATCH_ROWS = 8192
LEVELS = ("items", "users", "contexts")
KEYS = {"items": ["item_id"], "users": ["user_id", "snapshot_at"], "contexts": ["text_id"]}
FEATURES = {"items": "item_features", "users": "user_features"}
DATASETS = {
    VectorSource.STUDENT: {"contexts": "context_vectors"},
    VectorSource.RAW_TEXT: {
        "items": "item_text_vectors",
        "users": "user_text_vectors",
        "contexts": "context_text_vectors",
    },
    VectorSource.TUNED: {
        "items": "tuned_item_vectors",
        "users": "tuned_user_vectors",
        "contexts": "tuned_context_vectors",
    },
}
"""What is aligned; the student's items and users are read where they were published."""


def align_vectors(folder: Path, datasets: Mapping[str, Dataset], sources: Collection[VectorSource]) -> None:
    """Writes what trainings of arms of these sources open.

    Args:
        folder: gets `<source>-<level>.npy`, `…-has.npy` and tables.json, which names every table's space and place.
        datasets: item_features, user_features, context_vectors and those of the sources, by name.
        sources: which of DATASETS are wanted beside the student's; where it is empty, nothing is read.

    Raises:
        SpaceMismatch: a source's items, users and texts are not all of one space.
        StageError: a published table is not whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    facts: dict[str, dict[str, dict[str, str]]] = {}
    if sources:
        facts = _aligned_tables(folder, datasets, sources)
    write_atomically(folder / "tables.json", json.dumps(facts).encode())


def _aligned_tables(
    folder: Path, datasets: Mapping[str, Dataset], sources: Collection[VectorSource]
) -> dict[str, dict[str, dict[str, str]]]:
    """Source → level → where its table lies."""
    rows = {level: _published_rows(datasets[name], KEYS[level]) for level, name in FEATURES.items()}
    rows["contexts"] = datasets["context_vectors"].table(KEYS["contexts"])
    for level in FEATURES:
        write_shard(folder / f"{level}-rows.parquet", rows[level])
    facts: dict[str, dict[str, dict[str, str]]] = {}
    for source in [VectorSource.STUDENT, *sorted(set(sources) & DATASETS.keys() - {VectorSource.STUDENT})]:
        facts[source] = {}
        for level in LEVELS:
            name = DATASETS[source].get(level)
            facts[source][level] = (
                _published(datasets[FEATURES[level]])
                if name is None
                else _aligned(datasets[name], rows[level], KEYS[level], folder / f"{source}-{level}")
            )
        _check_one_space(source, facts[source])
    return facts


def open_vectors(folder: Path) -> SemanticVectors:
    """What align_vectors wrote there."""
    facts = json.loads((folder / "tables.json").read_text(encoding="utf-8"))
    tables = {
        VectorSource(source): ArmTables(**{level: _open(told) for level, told in levels.items()})
        for source, levels in facts.items()
    }
    if not tables:
        none = np.zeros(0, dtype=np.int64)
        return SemanticVectors(tables={}, user_N=none, time_N=none)
    users = pq.read_table(folder / "users-rows.parquet")
    return SemanticVectors(
        tables=tables,
        user_N=user_codes(users.column("user_id")),
        time_N=users.column("snapshot_at").cast("int64").to_numpy(),
    )


def _open(told: Mapping[str, str]) -> VectorTable:
    vectors_ND = np.load(told["vectors"], mmap_mode="r")
    has_vector_N = np.load(told["has"]) if told["has"] else np.ones(len(vectors_ND), dtype=np.bool_)
    return VectorTable(vectors_ND=vectors_ND, has_vector_N=has_vector_N, space_id=told["space_id"])


def _check_one_space(source: VectorSource, levels: Mapping[str, Mapping[str, str]]) -> None:
    spaces = {level: told["space_id"] for level, told in levels.items() if told["space_id"]}
    if len(set(spaces.values())) > 1:
        listed = ", ".join(f"{level} in {space}" for level, space in spaces.items())
        names = [*FEATURES.values(), *DATASETS[source].values()] if source is VectorSource.STUDENT else []
        raise SpaceMismatch(
            f"ctr_model: the {source} vectors are of several spaces ({listed}), and one model reads one space; run: msd"
            f" run {' '.join(names or DATASETS[source].values())}"
        )


def _published(features: Dataset) -> dict[str, str]:
    path = features.folder / "vectors.npy"
    if not path.is_file():
        raise StageError(f"{features.name}: {path.name} is not in its folder; run: msd run {features.name}")
    return {"vectors": str(path), "has": "", "space_id": str(features.details["space_id"])}


def _published_rows(features: Dataset, columns: list[str]) -> pa.Table:
    rows = pq.read_table(features.folder / "rows.parquet", columns=["vector_row", *columns]).sort_by("vector_row")
    if not np.array_equal(rows.column("vector_row").to_numpy(), np.arange(len(rows))):
        raise StageError(
            f"{features.name}: rows.parquet does not number the vectors 0 to {len(rows) - 1}; publish them again:"
            f" msd run {features.name}"
        )
    return rows


def _aligned(dataset: Dataset, rows: pa.Table, keys: list[str], target: Path) -> dict[str, str]:
    """Writes the dataset's vectors in the order of `rows`."""
    place_V = _places(dataset, rows, keys)
    vectors_ND: np.memmap | None = None
    paths = {"vectors": f"{target}.npy", "has": f"{target}-has.npy"}
    spaces: set[str] = set()
    lengths: set[int] = set()
    done = 0
    for batch in dataset.batches(BATCH_ROWS):
        spaces.update(pc.unique(batch.column("space_id")).to_pylist())
        lengths.update(pc.unique(pc.list_value_length(batch.column("vector"))).to_pylist())
        _check_one_table(dataset, spaces, lengths)
        if vectors_ND is None:
            shape = (len(rows), min(lengths))
            vectors_ND = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
                paths["vectors"], mode="w+", dtype=np.float32, shape=shape
            )
        place_B = place_V[done : done + len(batch)]
        batch_BD = batch.column("vector").flatten().to_numpy(zero_copy_only=False).reshape(len(batch), -1)
        vectors_ND[place_B[place_B >= 0]] = batch_BD[place_B >= 0]
        done += len(batch)
    if vectors_ND is None:
        np.save(paths["vectors"], np.zeros((len(rows), 1), dtype=np.float32))
    else:
        vectors_ND.flush()
    has_vector_N = np.zeros(len(rows), dtype=np.bool_)
    has_vector_N[place_V[place_V >= 0]] = True
    np.save(paths["has"], has_vector_N)
    return {**paths, "space_id": next(iter(spaces), "")}


def _places(dataset: Dataset, rows: pa.Table, keys: list[str]) -> Rows:
    """The published row of each of the dataset's rows, −1 for none; only keys are read."""
    found = pc.index_in(_joined_key(dataset.table(keys), keys), value_set=_joined_key(rows, keys))
    return pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64)


def _check_one_table(dataset: Dataset, spaces: set[str], lengths: set[int]) -> None:
    if len(spaces) > 1 or len(lengths) > 1:
        raise SpaceMismatch(
            f"{dataset.name} mixes vectors of spaces {', '.join(sorted(spaces))} and lengths"
            f" {', '.join(map(str, sorted(lengths)))} where one of each is wanted; run: msd run {dataset.name}"
        )


def _joined_key(table: pa.Table, keys: list[str]) -> pa.Array:
    """The key columns as one string; a unit separator cannot make two keys alike, as times hold none."""
    parts = [table.column(key) for key in keys]
    texts = [part if pa.types.is_string(part.type) else part.cast(pa.int64()).cast(pa.string()) for part in parts]
    return pc.binary_join_element_wise(*texts, "\x1f").combine_chunks()
