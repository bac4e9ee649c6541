"""Lookups answer with the active generation's vectors, say what is missing, and never mix generations or spaces."""

import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_repo.definitions import ITEM_VECTORS, USER_VECTORS, item_plans, user_plans, view_name
from feature_repo.lookup import VectorLookup, vector_lookup
from feature_repo.online import delete_fields, write_rows
from feature_repo.pointer import Pointer, basis_key, pointer_key
from feature_repo.published_vectors import PublishedVectors
from feature_repo.redis_address import Redis
from feature_repo.redis_link import RedisLink, link
from feature_repo.redis_server import running_redis
from feature_repo.store import open_store, project_name, quiet_feast
from feature_repo.vector_codec import fit_codec
from pipeline import schemas
from pipeline.errors import ConfigError, ServiceError, SpaceMismatch, StageError
from pipeline.storage import write_shard

pytestmark = pytest.mark.redis
PROJECT = "msd"
DIM = 24
ITEMS = [f"i{number}" for number in range(50)] + ["", "日本語", "é" * 300, "\r\n", "🙈"]
USERS = [f"u{number}" for number in range(20)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with running_redis(tmp_path_factory.mktemp("lookup")) as redis:
        yield redis


@pytest.fixture
def opened(server: Redis) -> Iterator[RedisLink]:
    with link(server) as made:
        made.ask("FLUSHALL")
        yield made


def vectors(ids: list[str], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((len(ids), DIM)).astype(np.float32)


def publish(
    opened: RedisLink, space: str, seed: int, *, precision: str = "float32", dimensions: int = 0, active: bool = True
) -> dict[str, np.ndarray]:
    """A generation of vectors as a publication leaves it; returns what lookups should answer."""
    generation = f"{seed:016x}"[::-1]
    matrices = {"item": vectors(ITEMS, seed), "user": vectors(USERS, seed + 1000)}
    codec = fit_codec(precision, dimensions, np.concatenate([*matrices.values()]))
    plans = {
        "item": item_plans(Path("nowhere"), space, generation)[0],
        "user": user_plans(Path("nowhere"), space, generation)[0],
    }
    for entity, ids in (("item", ITEMS), ("user", USERS)):
        numbers = np.arange(len(ids))
        rows = pa.table(
            {
                f"{entity}_id": ids,
                "vector_row": numbers,
                "content_hash": [f"{number:016x}" for number in numbers],
                "event_timestamp": pa.array(numbers, pa.int64()).cast(schemas.TIME),
            }
        )
        write_rows(opened, plans[entity], rows, codec.encode(matrices[entity]), PROJECT)
    views = {kind: view_name(kind, space, generation) for kind in (ITEM_VECTORS, USER_VECTORS)}
    folders = {"items": "item_features/x", "users": "user_features/x"}
    pointer = Pointer(
        generation=generation, space_id=space, dim=DIM, codec=codec.to_json(), views=views, folders=folders
    )
    if codec.basis_bytes():
        opened.ask("SET", basis_key(PROJECT, generation), codec.basis_bytes())
    if active:
        opened.ask("SET", pointer_key(PROJECT), pointer.to_bytes())
    return {entity: codec.decode(codec.encode(matrix).payload_NB) for entity, matrix in matrices.items()}


@pytest.mark.parametrize(("precision", "dimensions"), [("float32", 0), ("float16", 0), ("int8", 0), ("int8", 9)])
def test_vectors_come_back_and_missing_ids_are_marked(
    opened: RedisLink, build: ModuleType, precision: str, dimensions: int
):
    truth = publish(opened, build.SPACE, 1, precision=precision, dimensions=dimensions)
    lookup = VectorLookup(opened, PROJECT)
    assert lookup.space_id == build.SPACE
    for entity, ids in (("item", ITEMS), ("user", USERS)):
        vectors_ND, found_N = lookup.lookup(entity, ids)
        assert found_N.all()
        assert vectors_ND.dtype == np.float32
        assert np.array_equal(vectors_ND, truth[entity])
    asked = ["i7", "nobody", "i0", "i7", "\ud800", "日本語", "no\r\n"]
    vectors_ND, found_N = lookup.lookup("item", asked)
    assert found_N.tolist() == [True, False, True, True, False, True, False]
    assert np.array_equal(vectors_ND[found_N], truth["item"][[7, 0, 7, ITEMS.index("日本語")]])
    assert not vectors_ND[~found_N].any()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.sampled_from(ITEMS), st.text())), st.lists(st.sampled_from([*USERS, "no", ""])))
def test_any_request_is_answered_in_its_order(opened: RedisLink, items: list[str], users: list[str]):
    space = "5eed0001cafe0000"
    truth = publish(opened, space, 1) if opened.ask("GET", pointer_key(PROJECT)) is None else TRUTHS[space]
    TRUTHS[space] = truth
    (users_ND, has_user_N), (items_ND, has_item_N) = VectorLookup(opened, PROJECT).lookup_both(users, items)
    for entity, known, ids, answer_ND, found_N in (
        ("item", ITEMS, items, items_ND, has_item_N),
        ("user", USERS, users, users_ND, has_user_N),
    ):
        assert answer_ND.shape == (len(ids), DIM)
        assert found_N.tolist() == [each in known for each in ids]
        for row, each in enumerate(ids):
            wanted = truth[entity][known.index(each)] if each in known else np.zeros(DIM)
            assert np.array_equal(answer_ND[row], wanted)


TRUTHS: dict[str, dict[str, np.ndarray]] = {}


def test_a_switch_is_followed_by_the_very_next_request(opened: RedisLink, build: ModuleType):
    first = publish(opened, build.SPACE, 1)
    lookup = VectorLookup(opened, PROJECT)
    assert np.array_equal(lookup.lookup("item", ITEMS)[0], first["item"])
    second = publish(opened, build.OTHER_SPACE, 2, precision="int8", dimensions=5)
    users, items = lookup.lookup_both(USERS, ITEMS)
    assert np.array_equal(users[0], second["user"])
    assert np.array_equal(items[0], second["item"])
    assert (lookup.space_id, lookup.pointer.generation) == (build.OTHER_SPACE, f"{2:016x}"[::-1])


def test_a_reader_beside_switches_never_sees_a_mixture(server: Redis, opened: RedisLink, build: ModuleType):
    """The generation left is deleted at once, which a grace period would forbid: even then no answer is mixed."""
    truths = [publish(opened, build.SPACE, seed) for seed in (1, 2)]
    faults: list[Any] = []
    seen: set[int] = set()
    ended = threading.Event()

    def read() -> None:
        with link(server) as own:
            lookup = VectorLookup(own, PROJECT)
            while not ended.is_set():
                users, items = lookup.lookup_both(USERS, ITEMS)
                matching = [
                    number
                    for number, truth in enumerate(truths)
                    if np.array_equal(users[0], truth["user"]) and np.array_equal(items[0], truth["item"])
                ]
                seen.update(matching)
                if not matching or not users[1].all() or not items[1].all():
                    faults.append((lookup.pointer.generation, users[1].sum(), items[1].sum()))

    thread = threading.Thread(target=read)
    thread.start()
    keys = {"item": pa.array(ITEMS), "user": pa.array(USERS)}
    try:
        for turn in range(60):
            seed = turn % 2 + 1
            publish(opened, build.SPACE, seed)
            left = f"{3 - seed:016x}"[::-1]
            delete_fields(opened, [item_plans(Path("nowhere"), build.SPACE, left)[0]], keys["item"], PROJECT)
            delete_fields(opened, [user_plans(Path("nowhere"), build.SPACE, left)[0]], keys["user"], PROJECT)
    finally:
        ended.set()
        thread.join()
    assert not faults
    assert seen == {0, 1}


def test_an_unpublished_space_is_refused_also_later(opened: RedisLink, build: ModuleType):
    publish(opened, build.SPACE, 1)
    with pytest.raises(SpaceMismatch, match="msd run publication"):
        VectorLookup(opened, PROJECT, build.SPACE[:8] + "ffffffff")
    lookup = VectorLookup(opened, PROJECT, build.SPACE)
    publish(opened, build.OTHER_SPACE, 2)
    with pytest.raises(SpaceMismatch):
        lookup.lookup("item", ITEMS)


def test_item_and_user_vectors_of_two_spaces_are_refused(opened: RedisLink, build: ModuleType):
    publish(opened, build.SPACE, 1)
    pointer = VectorLookup(opened, PROJECT).pointer
    other = view_name(USER_VECTORS, build.OTHER_SPACE, pointer.generation)
    mixed = Pointer(**(vars(pointer) | {"views": pointer.views | {USER_VECTORS: other}}))
    opened.ask("SET", pointer_key(PROJECT), mixed.to_bytes())
    with pytest.raises(SpaceMismatch, match="user_vectors_5eed0002"):
        VectorLookup(opened, PROJECT)


@pytest.mark.parametrize("stored", [b"", b"[]", b"{}", b"\xff", b'{"generation": 1}'])
def test_a_pointer_that_is_none_is_refused_in_words(opened: RedisLink, stored: bytes):
    opened.ask("SET", pointer_key(PROJECT), stored)
    with pytest.raises(StageError, match="msd run publication"):
        VectorLookup(opened, PROJECT)


def test_nothing_published_is_said_with_the_next_command(opened: RedisLink, tmp_path: Path):
    with pytest.raises(StageError, match="msd run publication"):
        VectorLookup(opened, PROJECT)
    with pytest.raises(StageError, match="msd run publication"), vector_lookup(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_field_that_is_no_vector_names_the_id(opened: RedisLink, build: ModuleType):
    publish(opened, build.SPACE, 1)
    lookup = VectorLookup(opened, PROJECT)
    from feature_repo.feast_format import field_name, redis_keys

    (key,) = redis_keys("item_id", ["i3"], PROJECT)
    field = field_name(lookup.pointer.views[ITEM_VECTORS], "vector")
    kept = opened.ask("HGET", key, field)
    assert isinstance(kept, bytes)
    opened.ask("HSET", key, field, kept + b"more")
    with pytest.raises(ServiceError, match="'i3'"):
        lookup.lookup("item", ITEMS)
    opened.ask("HSET", key, field, b"")
    assert lookup.lookup("item", ["i3", "i4"])[1].tolist() == [False, True]
    opened.ask("DEL", key)
    opened.ask("SET", key, "a string")
    with pytest.raises(ServiceError, match="WRONGTYPE"):
        lookup.lookup("item", ITEMS)
    assert lookup.lookup("item", ["i4"])[1].all(), "the connection is of use afterwards"


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_what_is_not_online_comes_from_the_generations_files(
    opened: RedisLink, build: ModuleType, tmp_path: Path, precision: str
):
    truth = publish(opened, build.SPACE, 1, precision=precision)
    offline_of = {"item": ["i7", "late", "", "ζ"], "user": ["u1", "new", "new", "zz"]}
    rows_of = {"item": [0, 1, 2, 3], "user": [0, 2, 1, 3]}
    for entity, ids in offline_of.items():
        folder = tmp_path / f"{entity}_features" / "x"
        folder.mkdir(parents=True)
        np.save(folder / "vectors.npy", vectors(ids, 77))
        columns = {"vector_row": rows_of[entity], f"{entity}_id": ids, "content_hash": [""] * 4}
        times = {"snapshot_at": pa.array([0, 9, 5, 0], pa.int64()).cast(schemas.TIME)} if entity == "user" else {}
        write_shard(folder / "rows.parquet", pa.table(columns | times))
    offline_ND = vectors(["any"] * 4, 77)
    codec = fit_codec(precision, 0, offline_ND)
    rounded_ND = codec.decode(codec.encode(offline_ND).payload_NB)
    lookup = VectorLookup(opened, PROJECT, on_miss=PublishedVectors(tmp_path))
    (users_ND, has_user_N), (items_ND, has_item_N) = lookup.lookup_both(["new", "u1", "x"], ["late", "i7", "z", "ζ"])
    assert has_user_N.tolist() == [True, True, False]
    assert has_item_N.tolist() == [True, True, False, True]
    assert np.array_equal(users_ND[0], rounded_ND[2]), "the later of two snapshots"
    assert np.array_equal(users_ND[1], truth["user"][1]), "online comes first"
    assert np.array_equal(items_ND, [rounded_ND[1], truth["item"][7], np.zeros(DIM), rounded_ND[3]])
    opened.ask("HDEL", *_key_and_field(lookup, ""))
    assert not lookup.lookup("item", [""])[1].any(), "rows of erased users belong to nobody"


def _key_and_field(lookup: VectorLookup, each: str) -> list[bytes]:
    from feature_repo.feast_format import field_name, redis_keys

    return [*redis_keys("item_id", [each], PROJECT), field_name(lookup.pointer.views[ITEM_VECTORS], "vector")]


def test_files_that_are_gone_are_named(opened: RedisLink, build: ModuleType, tmp_path: Path):
    publish(opened, build.SPACE, 1)
    lookup = VectorLookup(opened, PROJECT, on_miss=PublishedVectors(tmp_path))
    with pytest.raises(StageError, match="item_features/x"):
        lookup.lookup("item", ["nobody"])


@pytest.mark.feast
@pytest.mark.slow
def test_a_publication_reads_as_feast_reads_it(published: Any, build: ModuleType):
    world = published[0]
    ids = [f"i{number:03d}" for number in range(40)] + ["nobody", "i007"]
    users = [f"u{number:03d}" for number in range(12)]
    with vector_lookup(world.workspace.root) as lookup:
        (users_ND, has_user_N), (items_ND, has_item_N) = lookup.lookup_both(users, ids)
        with quiet_feast():
            store = open_store(world.home)
            service = store.get_feature_service("ctr")
            rows = [{"item_id": each, "user_id": users[row % 12]} for row, each in enumerate(ids)]
            answer = store.get_online_features(features=service, entity_rows=rows, full_feature_names=True).to_dict()
    offline = PublishedVectors(world.workspace.root)
    for entity, asked, (online_ND, found_N) in (
        ("user", users, (users_ND, has_user_N)),
        ("item", ids, (items_ND, has_item_N)),
    ):
        offline_ND, known_N = offline(lookup.pointer, entity, asked)
        assert np.array_equal(known_N, found_N)
        assert np.array_equal(offline_ND, online_ND), "offline = online, of users the latest"
    theirs = answer["item_vectors__vector"]
    assert has_item_N.tolist() == [vector is not None for vector in theirs]
    assert items_ND[has_item_N].tolist() == [vector for vector in theirs if vector is not None]
    assert has_user_N.all()
    assert users_ND.tolist() == answer["user_vectors__vector"][:12]


@pytest.mark.parametrize("name", ["my project", "a-b", "_x", "x:y"])
def test_project_names_feast_does_not_take_are_refused(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MSD_PROJECT", name)
    with pytest.raises(ConfigError, match="MSD_PROJECT"):
        project_name()
