"""What we write is what Feast writes, what is read back is what was written, and nobody else's values are touched."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from feature_repo.definitions import ViewPlan, entities, feature_view, item_plans
from feature_repo.feast_format import field_names, redis_keys
from feature_repo.hash_rows import Shard
from feature_repo.online import delete_fields, differing_keys, read_back, write_rows, write_views
from feature_repo.redis_address import Redis, connect
from feature_repo.redis_link import RedisLink, link
from feature_repo.redis_server import running_redis
from feature_repo.store import quiet_feast, require_feast
from feature_repo.vector_codec import Encoded, fit_codec
from pipeline import schemas

pytestmark = pytest.mark.redis
IDS = ["i1", "", "日本語", "é" * 400, "\r\n*1\r\n", "i10", "🙈", "x\x00y"]
YAML = """\
project: {project}
provider: local
registry: {{registry_type: sql, path: "sqlite:///{folder}/registry.db"}}
offline_store: {{type: duckdb}}
online_store: {{type: redis, connection_string: "127.0.0.1:{port},db={database}"}}
entity_key_serialization_version: 3
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with running_redis(tmp_path_factory.mktemp("wire")) as redis:
        yield redis


@pytest.fixture
def opened(server: Redis) -> Iterator[RedisLink]:
    with link(server) as made:
        made.ask("FLUSHALL")
        yield made


@pytest.fixture
def shards(build: ModuleType) -> tuple[Shard, Shard]:
    return made_up(build, IDS)


def made_up(build: ModuleType, ids: list[str], dim: int = 7) -> tuple[Shard, Shard]:
    """Vectors and statistics of some items, of all sizes."""
    rng = np.random.default_rng(len(ids))
    count = len(ids)
    vectors_ND = rng.standard_normal((count, dim)).astype(np.float32)
    vectors_ND[0, 0] = np.nan
    times = [build.at(-500_000), build.START.replace(microsecond=1), build.START + timedelta(microseconds=999_999)]
    shared = {
        "item_id": ids,
        "event_timestamp": pa.array([times[number % 3] for number in range(count)], schemas.TIME),
    }
    vectors, stats = item_plans(Path("nowhere"), build.SPACE, "f" * 16)
    numbers = [2**62, 0, 1, 127, 128, 300, 16_384, 5]
    return (
        Shard(
            plan=vectors,
            rows=pa.table(
                shared | {"vector_row": np.arange(count), "content_hash": [f"{n:016x}" for n in range(count)]}
            ),
            encoded=fit_codec("float32", 0, vectors_ND).encode(vectors_ND),
        ),
        Shard(
            plan=stats,
            rows=pa.table(
                shared
                | {
                    "exposures": [numbers[n % 8] * (-1) ** (n // 8) for n in range(count)],
                    "clicks": np.arange(count),
                    "ctr_shrunk": rng.random(count),
                }
            ),
        ),
    )


def content(redis: Redis) -> dict[bytes, dict[bytes, bytes]]:
    with connect(redis) as client:
        return {key: client.hgetall(key) for key in client.keys()}  # noqa: SIM118


def of_another(view: ViewPlan) -> ViewPlan:
    return replace(view, name=view.name.replace("f" * 8, "0" * 8))


@pytest.mark.feast
@pytest.mark.slow
def test_our_database_equals_the_one_feast_writes(
    server: Redis, opened: RedisLink, shards: tuple[Shard, Shard], tmp_path: Path
):
    require_feast()
    from feast import FeatureStore

    (tmp_path / "feature_store.yaml").write_text(
        YAML.format(project="rec", folder=tmp_path, port=server.port, database=1), encoding="utf-8"
    )
    with quiet_feast():
        store = FeatureStore(repo_path=str(tmp_path))
        views = [feature_view(shard.plan, online=True) for shard in shards]
        store.apply([*entities(), *views])
        for view, shard in zip(views, shards, strict=True):
            frame = shard.rows.to_pandas().assign(created=shard.rows.column("event_timestamp").to_pandas())
            if shard.encoded is not None:
                frame["vector"] = list(shard.encoded.payload_NB.view("<f4"))
            store.write_to_online_store(view.name, df=frame)
        write_views(opened, shards, "rec")
        theirs, ours = content(replace(server, database=1)), content(server)
        assert len(ours) == len(IDS)
        assert ours == theirs
        rows = [{"item_id": each} for each in [*IDS, "nobody"]]
        features = [f"{shards[0].plan.name}:vector", f"{shards[1].plan.name}:exposures"]
        answer = store.get_online_features(features=features, entity_rows=rows).to_dict()
    assert answer["exposures"] == [*shards[1].rows.column("exposures").to_pylist(), None]
    written_ND = shards[0].encoded.payload_NB.view("<f4")
    assert np.array_equal(np.array(answer["vector"][:-1], dtype=np.float32), written_ND, equal_nan=True)
    assert answer["vector"][-1] is None


def test_views_side_by_side_are_the_views_one_after_the_other(
    server: Redis, opened: RedisLink, shards: tuple[Shard, Shard]
):
    sent = sum(write_rows(opened, each.plan, each.rows, each.encoded, "msd") for each in shards)
    apart = content(server)
    opened.ask("FLUSHALL")
    assert 0 < write_views(opened, shards, "msd") < sent
    assert content(server) == apart


def test_what_was_written_reads_back(opened: RedisLink, shards: tuple[Shard, Shard]):
    write_views(opened, shards, "msd")
    for shard in shards:
        back = read_back(opened, shard.plan, pa.array([*IDS, "nobody"]), "msd")
        assert (
            back.slice(0, len(IDS))
            .drop_columns(["vector"] if shard.encoded else [])
            .equals(
                shard.rows.select([name for name in back.column_names if name != "vector"]).cast(
                    back.drop_columns(["vector"] if shard.encoded else []).schema
                )
            )
        )
        if shard.encoded:
            stored = back.column("vector").to_pylist()
            assert stored == [*(row.tobytes() for row in shard.encoded.payload_NB), None]
        assert set(back.slice(len(IDS)).drop_columns("item_id").to_pylist()[0].values()) == {None}


def test_every_spoilt_byte_is_found(server: Redis, opened: RedisLink, shards: tuple[Shard, Shard]):
    write_views(opened, shards, "msd")
    for shard in shards:
        assert not len(differing(opened, shard))
        for number, field in enumerate(field_names(shard.plan)):
            key = redis_keys("item_id", IDS, "msd")[number]
            kept = opened.ask("HGET", key, field)
            assert isinstance(kept, bytes)
            for spoilt in (kept[:-1] + bytes([kept[-1] ^ 1]), b"", kept + b"\0"):
                opened.ask("HSET", key, field, spoilt)
                assert differing(opened, shard).to_pylist() == [IDS[number]]
            opened.ask("HDEL", key, field)
            assert differing(opened, shard).to_pylist() == [IDS[number]]
            opened.ask("HSET", key, field, kept)
        assert not len(differing(opened, shard))
    opened.ask("DEL", *redis_keys("item_id", IDS[2:5], "msd"))
    assert sorted(differing(opened, shards[0]).to_pylist()) == sorted(IDS[2:5])


def differing(opened: RedisLink, shard: Shard) -> pa.Array:
    return differing_keys(opened, shard.plan, shard.rows, shard.encoded, "msd")


def test_writing_again_at_the_same_time_replaces(opened: RedisLink, shards: tuple[Shard, Shard]):
    vectors = shards[0]
    write_views(opened, [vectors], "msd")
    turned = Encoded(payload_NB=vectors.encoded.payload_NB[::-1].copy(), is_array=True)
    write_rows(opened, vectors.plan, vectors.rows, turned, "msd")
    assert not len(differing_keys(opened, vectors.plan, vectors.rows, turned, "msd"))
    assert len(differing(opened, vectors)) == len(IDS)


def test_deleting_takes_exactly_the_fields_named(server: Redis, opened: RedisLink, shards: tuple[Shard, Shard]):
    """Projects `rec` and `myrec`, whose keys end alike, and another generation of the same views, stay as they are."""
    others = [replace(shard, plan=of_another(shard.plan)) for shard in shards]
    write_views(opened, shards, "myrec")
    write_views(opened, others, "rec")
    opened.ask("SET", "somebody:elses", "value")
    with connect(server) as client:
        wanted = {key: client.dump(key) for key in client.keys()}  # noqa: SIM118
    write_views(opened, shards, "rec")
    ids = shards[0].rows.column("item_id").combine_chunks()
    plans = [shard.plan for shard in shards]
    num_fields = sum(len(field_names(plan)) for plan in plans)
    assert delete_fields(opened, plans, ids.slice(0, 3), "rec") == 3 * num_fields
    assert delete_fields(opened, plans, ids, "rec") == (len(IDS) - 3) * num_fields
    assert delete_fields(opened, plans, ids, "rec") == 0
    assert delete_fields(opened, plans, ids.slice(0, 0), "rec") == 0
    with connect(server) as client:
        assert set(client.keys()) == set(wanted)
        assert all(client.hgetall(key) for key in redis_keys("item_id", IDS, "rec"))
    delete_fields(opened, [of_another(plan) for plan in plans], ids, "rec")
    with connect(server) as client:
        left = set(client.keys())
    assert left == {b"somebody:elses", *redis_keys("item_id", IDS, "myrec")}, "a hash with no field left is gone"


@pytest.mark.parametrize("project", ["rec", "myrec"])
def test_projects_do_not_read_each_others_values(opened: RedisLink, shards: tuple[Shard, Shard], project: str):
    write_views(opened, shards, "rec" if project == "myrec" else "myrec")
    back = read_back(opened, shards[1].plan, pa.array(IDS), project)
    assert back.column("exposures").null_count == len(IDS)
    assert len(differing_keys(opened, shards[1].plan, shards[1].rows, None, project)) == len(IDS)


def test_many_rows_of_many_shapes_arrive(server: Redis, opened: RedisLink, build: ModuleType):
    ids = [f"{number:x}" * (number % 37) + f"-{number}" for number in range(20_000)]
    both = made_up(build, ids, dim=33)
    write_views(opened, both, "msd")
    assert opened.ask("DBSIZE") == len(ids)
    for shard in both:
        assert not len(differing(opened, shard))


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
@pytest.mark.parametrize("dim", [1, 63, 20_000])
def test_vectors_and_ids_of_any_size_arrive(opened: RedisLink, build: ModuleType, precision: str, dim: int):
    ids = ["k" * 4000 * number + str(number) for number in range(12)]
    vectors = made_up(build, ids, dim)[0]
    vectors_ND = np.random.default_rng(0).standard_normal((len(ids), dim)).astype(np.float32)
    encoded = fit_codec(precision, 0, vectors_ND).encode(vectors_ND)
    shard = replace(vectors, encoded=encoded)
    write_views(opened, [shard], "msd")
    assert not len(differing(opened, shard))
    back = read_back(opened, shard.plan, pa.array(ids), "msd")
    assert back.column("vector").to_pylist() == [row.tobytes() for row in encoded.payload_NB]


def test_no_rows_are_no_command(opened: RedisLink, build: ModuleType, shards: tuple[Shard, Shard]):
    none = replace(shards[1], rows=shards[1].rows.slice(0, 0))
    assert write_views(opened, [none], "msd") == 0
    assert not len(differing(opened, none))
    assert read_back(opened, none.plan, pa.array([], pa.string()), "msd").num_rows == 0


def test_any_chunking_and_slicing_of_the_rows_is_the_same(
    server: Redis, opened: RedisLink, shards: tuple[Shard, Shard]
):
    stats = shards[1]
    write_rows(opened, stats.plan, stats.rows, None, "msd")
    wanted = content(server)
    opened.ask("FLUSHALL")
    twice = pa.concat_tables([stats.rows.slice(5), stats.rows, stats.rows.slice(0, 1)])
    chunked: Any = twice.slice(len(IDS) - 5, len(IDS))
    assert chunked.column(0).num_chunks >= 1
    write_rows(opened, stats.plan, chunked, None, "msd")
    assert content(server) == wanted
