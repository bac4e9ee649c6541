"""Our bytes are Feast's: keys, hash fields and values of made-up rows, each laid out by both."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from feature_repo import feast_format
from feature_repo.definitions import ViewPlan, feature_view
from feature_repo.hash_rows import HashRows, Shard
from feature_repo.resp import parse
from feature_repo.row_bytes import Shape
from feature_repo.store import require_feast
from feature_repo.vector_codec import Precision, fit_codec
from pipeline import schemas

pytestmark = pytest.mark.feast
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]))
INT64 = st.integers(-(2**63), 2**63 - 1)
TIMES = st.integers(-(2**55), 2**54).map(lambda micros: EPOCH + timedelta(microseconds=micros))
FLOAT32 = st.floats(width=32)
FEATURES = {
    "text": (pa.string(), TEXT),
    "raw": (pa.binary(), st.binary()),
    "large": (pa.int64(), INT64),
    "small": (pa.int8(), st.integers(-128, 127)),
    "wide": (pa.float64(), st.floats()),
    "narrow": (pa.float32(), FLOAT32),
    "moment": (schemas.TIME, TIMES),
    "numbers": (pa.list_(pa.float32()), st.lists(FLOAT32, max_size=40)),
}
ROW = st.fixed_dictionaries(
    {"item_id": st.one_of(TEXT, st.sampled_from(["", "é" * 300, "\r\n$3\r\n", "\x00", "日本", "🙈" * 70])), "at": TIMES}
    | {name: values for name, (_, values) in FEATURES.items()}
)

# Of a column that holds nothing but nulls, NaN or empty bytes Feast makes nulls, whatever it holds.
TYPED = {"raw": b"x", "wide": 1.5, "narrow": 1.5, "numbers": [0.0]}
# Feast takes milliseconds a row: few examples, and the failing one as it was found.
BESIDE_FEAST = settings(max_examples=40, phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow])


def plan(features: dict[str, pa.DataType], name: str = "made_up") -> ViewPlan:
    fields = tuple(pa.field(each, kind, metadata={"doc": each}) for each, kind in features.items())
    key = schemas.ITEM_VECTORS.field("item_id")
    tags = {"kind": name, "space_id": "s" * 16, "generation": "g" * 16}
    return ViewPlan(name=name, key=key, features=fields, description="", files=Path("nowhere"), tags=tags)


def ours(shard: Shard, project: str) -> dict[bytes, dict[bytes, bytes]]:
    """What our commands would store."""
    table = HashRows([shard], project)
    stored: dict[bytes, dict[bytes, bytes]] = {}
    for rows, lengths in table.shapes():
        shape = Shape(table.hset(lengths))
        for chunk in shape.chunks(rows):
            commands = bytearray(shape.fill(chunk).tobytes())
            start = 0
            while start < len(commands):
                words, start = parse(commands, start)
                assert isinstance(words, list)
                name, key, *rest = words
                assert name == b"HSET"
                stored.setdefault(key, {}).update(zip(rest[::2], rest[1::2], strict=True))
    return stored


def feasts(shard: Shard, project: str) -> dict[bytes, dict[bytes, bytes]]:
    """What Feast's online_write_batch would store: its own conversion, keys and serialisers."""
    from feast.infra.online_stores.helpers import _mmh3, _redis_key
    from feast.utils import _convert_arrow_to_proto
    from google.protobuf.timestamp_pb2 import Timestamp

    view = feature_view(shard.plan, online=True)
    join_keys = {column.name: column.dtype.to_value_type() for column in view.entity_columns}
    rows = shard.rows.append_column("created", shard.rows.column("event_timestamp"))
    stored: dict[bytes, dict[bytes, bytes]] = {}
    for key, values, at, _ in _convert_arrow_to_proto(rows, view, join_keys):
        stamp = Timestamp()
        stamp.FromDatetime(at.replace(tzinfo=UTC) if at.tzinfo is None else at)
        fields = {f"_ts:{view.name}".encode(): stamp.SerializeToString()}
        fields |= {_mmh3(f"{view.name}:{name}"): value.SerializeToString() for name, value in values.items()}
        stored.setdefault(_redis_key(project, key), {}).update(fields)
    return stored


@pytest.fixture(scope="module", autouse=True)
def feast() -> None:
    require_feast()


def rows_table(rows: list[dict[str, Any]], names: list[str], is_null: dict[int, set[str]]) -> pa.Table:
    columns = {"item_id": pa.array([row["item_id"] for row in rows], pa.string())}
    for name in names:
        values = [None if name in is_null.get(number, ()) else row[name] for number, row in enumerate(rows)]
        columns[name] = pa.array(values, FEATURES[name][0])
    columns["event_timestamp"] = pa.array([row["at"] for row in rows], schemas.TIME)
    return pa.table(columns)


@BESIDE_FEAST
@given(
    st.lists(ROW, min_size=1, max_size=8, unique_by=lambda row: row["item_id"]), st.sampled_from(["msd", "r", "p_1"])
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_made_up_rows_are_laid_out_as_feast_does(rows: list[dict[str, Any]], project: str):
    names = list(FEATURES)
    rows[0] |= TYPED
    shard = Shard(plan=plan({name: FEATURES[name][0] for name in names}), rows=rows_table(rows, names, {}))
    assert ours(shard, project) == feasts(shard, project)


@BESIDE_FEAST
@given(st.lists(ROW, min_size=2, max_size=6, unique_by=lambda row: row["item_id"]), st.data())
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_nulls_are_feasts_nulls(rows: list[dict[str, Any]], data: st.DataObject):
    # Of integers with a null Feast makes floats, which loses digits and its own type check; the rest it can write.
    names = ["text", "raw", "wide", "numbers"]
    rows[0] |= TYPED
    is_null = {number: data.draw(st.sets(st.sampled_from(names))) for number in range(1, len(rows))}
    shard = Shard(plan=plan({name: FEATURES[name][0] for name in names}), rows=rows_table(rows, names, is_null))
    assert ours(shard, "msd") == feasts(shard, "msd")


@pytest.mark.parametrize("precision", list(Precision))
def test_encoded_vectors_are_laid_out_as_feast_does(precision: Precision):
    count, dim = 40, 150
    vectors_ND = np.random.default_rng(0).standard_normal((count, dim)).astype(np.float32)
    codec = fit_codec(precision, 0, vectors_ND)
    encoded = codec.encode(vectors_ND)
    values = list(vectors_ND) if codec.is_array else [row.tobytes() for row in encoded.payload_NB]
    rows = pa.table(
        {
            "item_id": [f"i{number}" for number in range(count)],
            "event_timestamp": pa.array([EPOCH + timedelta(seconds=number) for number in range(count)], schemas.TIME),
        }
    )
    view = plan({"vector": codec.feature_type})
    theirs = feasts(Shard(plan=view, rows=rows.append_column("vector", pa.array(values, codec.feature_type))), "msd")
    assert ours(Shard(plan=view, rows=rows, encoded=encoded), "msd") == theirs


@given(TEXT, st.sampled_from(["item_id", "user_id"]))
def test_keys_and_hash_fields_are_feasts(each: str, key_name: str):
    from feast.infra.online_stores.helpers import _mmh3, _redis_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    entity = EntityKey(join_keys=[key_name], entity_values=[Value(string_val=each)])
    assert feast_format.redis_keys(key_name, [each], "rec") == [_redis_key("rec", entity)]
    assert feast_format.field_name("view", each) == _mmh3(f"view:{each}")


@settings(max_examples=60)
@given(ROW)
def test_values_read_back_as_they_were(row: dict[str, Any]):
    table = rows_table([row], list(FEATURES), {})
    shard = Shard(plan=plan({name: kind for name, (kind, _) in FEATURES.items()}), rows=table)
    (fields,) = ours(shard, "msd").values()
    at = feast_format.read_time(fields[feast_format.time_field("made_up")])
    assert at == (row["at"] - EPOCH) // timedelta(microseconds=1)
    for name, (kind, _) in FEATURES.items():
        value = feast_format.read_value(fields[feast_format.field_name("made_up", name)], kind)
        wanted = table.column(name)[0].as_py()
        if name == "numbers":
            wanted = np.array(row[name], dtype="<f4").tobytes()
        elif name == "moment":
            value, wanted = value // 1_000_000, (row[name] - EPOCH) // timedelta(seconds=1)
        elif wanted != wanted:
            wanted = None
        assert value == wanted
