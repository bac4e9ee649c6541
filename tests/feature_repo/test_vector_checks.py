"""Tables spoilt in every way a publication must stop at, and the names and settings its error gives."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from feature_repo import vector_checks
from feature_repo.offline import VECTORS_FILE
from feature_repo.online_rows import duckdb_session
from feature_repo.vector_checks import Table, check_coverage, check_vectors
from pipeline import schemas
from pipeline.config import Publication
from pipeline.errors import StageError
from pipeline.storage import Dataset

ROWS, DIM = 300, 16


def features(
    world: Any, build: ModuleType, vectors_ND: np.ndarray, label: str, texts: list[str] | None = None
) -> Dataset:
    """item_features of some vectors."""
    rows = build.item_vector_rows(len(vectors_ND))
    for number, row in enumerate(rows):
        row["vector"] = vectors_ND[number].astype(np.float32).tolist()
        row["content_hash"] = texts[number] if texts else row["content_hash"]
    vectors = build.committed(world.workspace, "item_vectors", schemas.ITEM_VECTORS, rows, label)
    return world.with_(item_vectors=vectors).item_features(label.encode().hex().ljust(16, "0")[:16])


def table_of(made: Dataset, build: ModuleType, before: Dataset | None = None) -> Table:
    table = Table(dataset="item_features", key="item_id", folder=made.folder, space_id=build.SPACE)
    return table if before is None else replace(table, active_folder=before.folder, active_space_id=build.SPACE)


def checked(table: Table, config: Publication) -> dict[str, Any]:
    with duckdb_session(table.folder) as session:
        return check_vectors(session, table, config)


def good(seed: int = 0, rows: int = ROWS) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, DIM))


def test_a_good_table_is_measured(world: Any, build: ModuleType):
    vectors_ND = good()
    found = checked(table_of(features(world, build, vectors_ND, "good"), build), Publication())
    unit_ND = vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    cosines = [unit_ND[a] @ unit_ND[b] for a in range(ROWS) for b in range(a)]
    singular = np.linalg.svd(vectors_ND - vectors_ND.mean(axis=0), compute_uv=False)
    shares = singular / singular.sum()
    assert found["mean_cosine"] == pytest.approx(np.mean(cosines), abs=1e-6)
    assert found["effective_rank"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-4)
    assert found["duplicate_share"] == 0.0
    assert found["norm_median"] == pytest.approx(np.median(np.linalg.norm(vectors_ND, axis=1)), rel=1e-5)


def one_direction() -> np.ndarray:
    return good() * 0.01 + 1.0


def two_directions() -> np.ndarray:
    angles_N = np.random.default_rng(1).uniform(0, 2 * np.pi, ROWS)
    axes_2D, _ = np.linalg.qr(np.random.default_rng(2).standard_normal((DIM, 2)))
    return np.stack([np.cos(angles_N), np.sin(angles_N)], axis=1) @ axes_2D.T


def one_giant() -> np.ndarray:
    vectors_ND = good()
    vectors_ND[77] *= 1e4
    return vectors_ND


def one_dwarf() -> np.ndarray:
    vectors_ND = good()
    vectors_ND[78] *= 1e-4
    return vectors_ND


def many_alike() -> np.ndarray:
    vectors_ND = good()
    vectors_ND[100:200] = vectors_ND[100]
    return vectors_ND


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (one_direction, r"collapsed, for instance i\d.*--set publication\.max_mean_cosine="),
        (two_directions, r"effective rank .* wanted 3\.00 .*--set publication\.min_effective_rank="),
        (one_giant, r"1 vectors have a norm more than 20 times .*: i077;"),
        (one_dwarf, r"1 vectors have a norm .*: i078;.*--set publication\.max_norm_ratio="),
        (many_alike, r"0\.333 of the vectors equals .*: i100, .*--set publication\.max_duplicate_share=0\.33"),
    ],
)
def test_a_spoilt_table_is_named(spoil: Any, said: str, world: Any, build: ModuleType):
    made = features(world, build, spoil(), spoil.__name__)
    with pytest.raises(StageError, match=said) as refused:
        checked(table_of(made, build), Publication())
    assert "nothing was published" in str(refused.value)


@pytest.mark.parametrize(
    ("spoil", "lifted"),
    [
        (one_direction, {"max_mean_cosine": 1.0}),
        (two_directions, {"min_effective_rank": 1.0}),
        (many_alike, {"max_duplicate_share": 0.4}),
        (one_giant, {"max_norm_ratio": 1e5, "min_effective_rank": 1.0}),
    ],
)
def test_what_is_meant_passes_with_its_setting(spoil: Any, lifted: dict, world: Any, build: ModuleType):
    made = features(world, build, spoil(), spoil.__name__)
    checked(table_of(made, build), Publication(**lifted))


def test_equal_vectors_of_equal_texts_are_no_fault(world: Any, build: ModuleType):
    texts = [f"{100 if 100 <= number < 200 else number:016x}" for number in range(ROWS)]
    made = features(world, build, many_alike(), "alike", texts)
    assert checked(table_of(made, build), Publication())["duplicate_share"] == 0.0


def test_duplicates_are_found_in_a_share_of_a_large_table(world: Any, build: ModuleType):
    vectors_ND = good()
    vectors_ND[1::2] = vectors_ND[0::2]
    made = features(world, build, vectors_ND, "pairs")
    large = replace(table_of(made, build), max_hashed_rows=60)
    with pytest.raises(StageError, match=r"a share of 1\.000"):
        checked(large, Publication())


def test_drift_is_seen_where_text_and_space_are_the_same(world: Any, build: ModuleType):
    before = features(world, build, good(), "before")
    moved_ND = good() + 0.5 * good(seed=3)
    after = features(world, build, moved_ND, "after")
    with pytest.raises(StageError, match=r"300 keys .* have moved .*--set publication\.max_drift="):
        checked(table_of(after, build, before), Publication())
    texts = [f"{number + 1000:016x}" for number in range(ROWS)]
    rewritten = features(world, build, moved_ND, "rewritten", texts)
    told = checked(table_of(rewritten, build, before), Publication())["against_active"]
    assert told["changed_texts"] == ROWS
    assert "drift" not in told
    same = features(world, build, good(), "same")
    told = checked(table_of(same, build, before), Publication())["against_active"]
    assert told["drift"] == pytest.approx(0.0, abs=1e-9)


def test_the_panel_is_the_same_keys_whatever_the_table_holds_besides(world: Any, build: ModuleType):
    config = Publication(panel_rows=40)
    few = features(world, build, good(), "few")
    many = features(world, build, good(rows=600), "many")
    against = checked(table_of(many, build, few), config)["against_active"]
    # Of twice the keys the first forty by the hash hold about half of the first forty before.
    assert 8 <= against["shared_keys"] <= 32


def test_another_space_is_compared_by_its_neighbours(world: Any, build: ModuleType):
    before = features(world, build, good(), "first")
    turned, _ = np.linalg.qr(np.random.default_rng(5).standard_normal((DIM, DIM)))
    table = table_of(features(world, build, good() @ turned, "turned"), build, before)
    told = checked(replace(table, space_id=build.OTHER_SPACE), Publication())["against_active"]
    assert told["neighbour_overlap"] > 0.99, "a rotation keeps every neighbour"


def test_too_little_of_the_catalogue_is_refused():
    assert check_coverage("item_features", 95, 100, Publication()) == 0.95
    with pytest.raises(StageError, match=r"80 of 100 keys have a vector.*--set publication\.min_coverage=0\.800"):
        check_coverage("item_features", 80, 100, Publication())
    with pytest.raises(StageError, match=r"msd run tuned_publication --set tuned_publication\.min_coverage"):
        check_coverage("tuned_item_features", 80, 100, Publication())


@pytest.mark.parametrize(("rows", "dim"), [(1, 4), (2, 4), (3, 1), (5, 2)])
def test_tables_too_small_to_judge_pass(rows: int, dim: int, world: Any, build: ModuleType):
    vectors_ND = np.random.default_rng(rows).standard_normal((rows, dim)) + 0.5
    made = features(world, build, vectors_ND, f"small{rows}")
    # One number has one direction: every cosine is 1 or -1.
    checked(table_of(made, build), Publication(max_mean_cosine=1.0, max_duplicate_share=1.0))


def test_an_erased_person_is_no_key(world: Any, build: ModuleType):
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = features(world, build, good(), "erased")
    path: Path = made.folder / "rows.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[5] |= {"item_id": "", "content_hash": ""}
    pq.write_table(pa.Table.from_pylist(rows), path)
    np.lib.format.open_memmap(made.folder / VECTORS_FILE, mode="r+")[5] = 0.0
    assert checked(table_of(made, build), Publication())["panel_rows"] == ROWS - 1


def test_a_hash_of_a_vector_tells_vectors_apart():
    vectors_ND = np.random.default_rng(0).standard_normal((100_000, 8)).astype(np.float32)
    assert len(np.unique(vector_checks._row_hashes(vectors_ND))) == len(vectors_ND)
    nearly_ND = np.repeat(vectors_ND[:1], 1000, axis=0)
    nearly_ND[np.arange(1, 1000), np.arange(1, 1000) % 8] = np.nextafter(
        nearly_ND[np.arange(1, 1000), np.arange(1, 1000) % 8], np.float32(10), dtype=np.float32
    )
    assert len(np.unique(vector_checks._row_hashes(nearly_ND))) == 9, "the vector itself, and eight with one bit more"
    turned_ND = np.ascontiguousarray(vectors_ND[:100, ::-1])
    assert not set(vector_checks._row_hashes(turned_ND)) & set(vector_checks._row_hashes(vectors_ND))
    signed_ND = np.array([[0.0, 1.0], [-0.0, 1.0]], dtype=np.float32)
    assert len(np.unique(vector_checks._row_hashes(signed_ND))) == 1
