"""Whether a table of vectors is fit to be read by anyone, found out before a server is touched.

Each vector by itself (NaN, infinity, zero, length, keys twice) is judged where the files are written (offline.py). Here
the table is judged as a whole: norms out of all proportion, vectors that have collapsed into one direction, equal
vectors of different texts, too little of the catalogue, and drift against what readers have now. Whole-table numbers
stream over vectors.npy; what needs pairs is taken on a panel, the first keys by a hash, the same ones every day.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from feature_repo.offline import NAMED_ROWS, ROWS_FILE, VECTORS_FILE
from feature_repo.online_rows import files_of
from pipeline.config import Publication
from pipeline.errors import StageError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

# N rows, D numbers of a vector.
BLOCK_ROWS = 65_536
MAX_HASHED_ROWS = 4_000_000
"""Above, duplicates are sought in a share of the vectors, chosen by their own hash so that equal ones stay together."""
NEIGHBOURS = 10
Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Table:
    """The vectors of one dataset of features, and of what readers have now."""

    dataset: str
    """item_features or user_features, or those of the tuned student."""
    key: str
    folder: Path
    space_id: str
    active_folder: Path | None = None
    """The same dataset of the active generation; None where there is none in this work folder."""
    active_space_id: str = ""
    max_hashed_rows: int = MAX_HASHED_ROWS


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The fixed sample: the latest row of some keys."""

    keys: list[str]
    hashes: list[str]
    vectors_ND: Matrix


def check_vectors(session: "DuckDBPyConnection", table: Table, config: Publication) -> dict[str, Any]:
    """Judges one table.

    Args:
        session: of duckdb_session.
        table: whose rows.parquet and vectors.npy are read.
        config: the limits.

    Returns:
        What was measured, for checks.json.

    Raises:
        StageError: a limit is passed; rows are named.
    """
    vectors_ND = np.load(table.folder / VECTORS_FILE, mmap_mode="r")
    panel = _panel(session, table.key, table.folder, vectors_ND, config.panel_rows)
    measured = {
        "rows": len(vectors_ND),
        "panel_rows": len(panel.keys),
        **_norms(session, table, vectors_ND, config.max_norm_ratio, panel),
        **_collapse(table, panel, config),
        **_duplicates(session, table, vectors_ND, config),
    }
    if table.active_folder is not None:
        measured["against_active"] = _against_active(session, table, panel, config)
    return measured


def check_coverage(name: str, with_vector: int, catalogue: int, config: Publication) -> float:
    """The share of the catalogue that has a vector.

    Raises:
        StageError: it is too small.
    """
    share = with_vector / catalogue if catalogue else 1.0
    if share < config.min_coverage:
        _refuse(
            f"{name}: {with_vector:,} of {catalogue:,} keys have a vector, a share of {share:.3f}, wanted"
            f" {config.min_coverage} or more",
            name,
            f"min_coverage={share:.3f}",
        )
    return share


def _panel(session: "DuckDBPyConnection", key: str, folder: Path, vectors_ND: Matrix, rows: int) -> Panel:
    # A row's number grows with the user's snapshots, and items have one row: the greatest is the latest.
    found = session.execute(
        f"""
        SELECT {key} AS key, arg_max(content_hash, vector_row) AS hash, max(vector_row) AS row
        FROM read_parquet(?) WHERE {key} <> '' GROUP BY {key} ORDER BY md5({key}), {key} LIMIT {rows}
        """,
        [files_of(folder / ROWS_FILE)],
    ).to_arrow_table()
    numbers = found.column("row").to_numpy()
    return Panel(
        keys=found.column("key").to_pylist(), hashes=found.column("hash").to_pylist(), vectors_ND=vectors_ND[numbers]
    )


def _norms(
    session: "DuckDBPyConnection", table: Table, vectors_ND: Matrix, max_ratio: float, panel: Panel
) -> dict[str, Any]:
    median = float(np.median(np.linalg.norm(panel.vectors_ND, axis=1)))
    outliers: list[int] = []
    least, most = np.inf, 0.0
    for start, block_ND in _blocks(vectors_ND):
        norms_N = np.linalg.norm(block_ND, axis=1)
        # An erased person's vector is all zero and of no key.
        norms_N = np.where(norms_N == 0, median, norms_N)
        least, most = min(least, float(norms_N.min())), max(most, float(norms_N.max()))
        is_out = (norms_N > max_ratio * median) | (norms_N < median / max_ratio)
        outliers += (start + np.flatnonzero(is_out)).tolist()
    if outliers:
        worst = max(most / median, median / least)
        _refuse(
            f"{table.dataset}: {len(outliers):,} vectors have a norm more than {max_ratio:g} times the median"
            f" {median:.3g}, or as many times less: {_named(session, table, outliers)}",
            table.dataset,
            f"max_norm_ratio={worst + 0.1:.1f}",
        )
    return {"norm_median": median, "norm_least": least, "norm_most": most}


def _collapse(table: Table, panel: Panel, config: Publication) -> dict[str, float]:
    count, dim = panel.vectors_ND.shape
    if count < 2:
        return {}
    unit_ND = _unit(panel.vectors_ND)
    total_D = unit_ND.sum(axis=0)
    # Σ over different keys of cos = |Σ unit|² - N.
    mean_cosine = float((total_D @ total_D - count) / (count * (count - 1)))
    singular = np.linalg.svd(panel.vectors_ND - panel.vectors_ND.mean(axis=0), compute_uv=False)
    shares = singular[singular > 0] / max(float(singular.sum()), 1e-30)
    rank = float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0
    # A handful of keys, or of numbers, has no more rank than it has members.
    wanted = min(config.min_effective_rank, (count - 1) / 2, dim / 2)
    name = table.dataset
    if mean_cosine > config.max_mean_cosine:
        _refuse(
            f"{name}: the mean cosine between different keys is {mean_cosine:.4f}, wanted {config.max_mean_cosine} or"
            f" less: the vectors have collapsed, for instance {_nearest(panel, unit_ND)}",
            name,
            f"max_mean_cosine={mean_cosine + 0.0001:.4f}",
        )
    if rank < wanted:
        _refuse(
            f"{name}: the effective rank of {count} vectors is {rank:.2f}, wanted {wanted:.2f} or more: they have"
            f" collapsed, for instance {_nearest(panel, unit_ND)}",
            name,
            f"min_effective_rank={rank - 0.01:.2f}",
        )
    return {"mean_cosine": mean_cosine, "effective_rank": rank}


def _duplicates(
    session: "DuckDBPyConnection", table: Table, vectors_ND: Matrix, config: Publication
) -> dict[str, float]:
    hashes_N = np.concatenate([_row_hashes(block_ND) for _, block_ND in _blocks(vectors_ND)])
    parts = -(-len(hashes_N) // table.max_hashed_rows)
    rows = np.flatnonzero(hashes_N % np.uint64(parts) == 0)
    import pyarrow as pa

    hashed = pa.table({"row": rows, "vector": hashes_N[rows]})
    session.register("hashed", hashed)
    session.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE doubles AS
        SELECT row FROM (
            SELECT row, min(content_hash) OVER same <> max(content_hash) OVER same AS differs
            FROM hashed JOIN read_parquet(?) AS known ON known.vector_row = hashed.row
            WHERE {table.key} <> '' WINDOW same AS (PARTITION BY vector)
        ) WHERE differs
        """,
        [files_of(table.folder / ROWS_FILE)],
    )
    session.unregister("hashed")
    found = session.execute("SELECT row FROM doubles ORDER BY row").fetchnumpy()["row"]
    share = len(found) / max(len(rows), 1)
    if share > config.max_duplicate_share:
        _refuse(
            f"{table.dataset}: a share of {share:.3f} of the vectors equals the vector of another text, wanted"
            f" {config.max_duplicate_share} or less: {_named(session, table, found[:NAMED_ROWS].tolist(), len(found))}",
            table.dataset,
            f"max_duplicate_share={share + 0.0005:.3f}",
        )
    return {"duplicate_share": share}


def _against_active(session: "DuckDBPyConnection", table: Table, panel: Panel, config: Publication) -> dict[str, Any]:
    """Drift on what should be the same, and how the neighbourhoods of another space compare."""
    assert table.active_folder is not None
    active_ND = np.load(table.active_folder / VECTORS_FILE, mmap_mode="r")
    before = _panel(session, table.key, table.active_folder, active_ND, config.panel_rows)
    place = {key: number for number, key in enumerate(before.keys)}
    shared = [(number, place[key]) for number, key in enumerate(panel.keys) if key in place]
    changed = [panel.keys[new] for new, old in shared if panel.hashes[new] != before.hashes[old]]
    told: dict[str, Any] = {"shared_keys": len(shared), "changed_texts": len(changed), "changed": _some(table, changed)}
    if table.space_id != table.active_space_id:
        return told | {"neighbour_overlap": _overlap(panel.vectors_ND, before.vectors_ND, shared)}
    same = [(new, old) for new, old in shared if panel.hashes[new] == before.hashes[old]]
    if not same:
        return told
    new, old = (np.array(numbers) for numbers in zip(*same, strict=True))
    distances_N = 1.0 - (_unit(panel.vectors_ND[new]) * _unit(before.vectors_ND[old])).sum(axis=1)
    drift = float(distances_N.mean())
    if drift > config.max_drift:
        worst = [panel.keys[new[number]] for number in np.argsort(-distances_N)[:NAMED_ROWS]]
        _refuse(
            f"{table.dataset}: {len(same):,} keys whose text and space are as before have moved by a mean cosine"
            f" distance of {drift:.4f}, wanted {config.max_drift} or less; most of all {', '.join(worst)}",
            table.dataset,
            f"max_drift={drift + 0.0001:.4f}",
        )
    return told | {"drift": drift}


def _some(table: Table, keys: list[str]) -> list[str]:
    """A few names for the receipt, which names no users."""
    return keys[:NAMED_ROWS] if table.key == "item_id" else []


def _overlap(vectors_ND: Matrix, before_ND: Matrix, shared: list[tuple[int, int]]) -> float | None:
    """Mean share of a key's nearest neighbours in one space that are its nearest in the other; None for a few keys."""
    if len(shared) <= NEIGHBOURS:
        return None
    new, old = (np.array(numbers) for numbers in zip(*shared, strict=True))
    nearest = [_neighbours(matrix) for matrix in (vectors_ND[new], before_ND[old])]
    common = [len(set(first) & set(second)) for first, second in zip(*nearest, strict=True)]
    return float(np.mean(common) / NEIGHBOURS)


def _neighbours(vectors_ND: Matrix) -> list[list[int]]:
    unit_ND = _unit(vectors_ND)
    cosines_NN = unit_ND @ unit_ND.T
    np.fill_diagonal(cosines_NN, -np.inf)
    return np.argsort(-cosines_NN, axis=1, kind="stable")[:, :NEIGHBOURS].tolist()


def _blocks(vectors_ND: Matrix) -> Iterator[tuple[int, Matrix]]:
    for start in range(0, len(vectors_ND), BLOCK_ROWS):
        yield start, np.asarray(vectors_ND[start : start + BLOCK_ROWS])


def _row_hashes(block_ND: Matrix) -> npt.NDArray[np.uint64]:
    """64 bits of each row's bytes: a sum of products with odd numbers, which wraps; -0.0 counts as 0.0."""
    words_ND = (block_ND + np.float32(0)).view(np.uint32).astype(np.uint64)
    factors_D = np.random.default_rng(20_240_301).integers(0, 2**63, words_ND.shape[1], dtype=np.uint64) * 2 + 1
    mixed_ND = words_ND * np.uint64(0x9E3779B97F4A7C15)
    mixed_ND ^= mixed_ND >> np.uint64(29)
    return (mixed_ND * factors_D).sum(axis=1, dtype=np.uint64)


def _unit(vectors_ND: Matrix) -> npt.NDArray[np.float64]:
    wide_ND = vectors_ND.astype(np.float64)
    return wide_ND / np.maximum(np.linalg.norm(wide_ND, axis=1, keepdims=True), 1e-30)


def _nearest(panel: Panel, unit_ND: npt.NDArray[np.float64]) -> str:
    """The names of the keys nearest to the first one of the panel."""
    order = np.argsort(-(unit_ND @ unit_ND[0]), kind="stable")[:NAMED_ROWS]
    return ", ".join(panel.keys[number] for number in order)


def _named(session: "DuckDBPyConnection", table: Table, rows: list[int], count: int | None = None) -> str:
    marks = ", ".join(str(row) for row in rows[:NAMED_ROWS])
    found = session.execute(
        f"SELECT {table.key} FROM read_parquet(?) WHERE vector_row IN ({marks}) ORDER BY vector_row",
        [files_of(table.folder / ROWS_FILE)],
    ).fetchall()
    more = ", …" if (len(rows) if count is None else count) > NAMED_ROWS else ""
    return ", ".join(key for (key,) in found) + more


def _refuse(found: str, dataset: str, setting: str) -> None:
    stage = "tuned_publication" if dataset.startswith("tuned") else "publication"
    raise StageError(
        f"{found}; nothing was published; look at the texts and the encoder with: msd show"
        f" {dataset.replace('features', 'vectors')}; where it is meant: msd run {stage} --set {stage}.{setting}"
    )
