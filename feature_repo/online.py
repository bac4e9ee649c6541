"""The latest value of every key → Redis, through Feast, read back and measured.

Feast skips a row whose event_timestamp equals the stored one, so that vectors made anew for the same moment would never
arrive. A publication is the whole latest state of its views, so here every row replaces what is stored (`skip_dedup`),
which also makes a repeated publication end in the same state.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from feature_repo.definitions import ViewPlan
from feature_repo.offline import VECTORS_FILE, latest_rows, read_keys
from feature_repo.redis_address import Redis, RedisKind, connect
from pipeline.errors import ServiceError
from pipeline.progress import progress

if TYPE_CHECKING:
    from feast import FeatureStore

SAMPLE_KEYS = 64


def write_online(store: "FeatureStore", plan: ViewPlan, batch_rows: int) -> int:
    """Writes the latest row of every key of a view and compares a sample with what then reads back.

    Args:
        store: whose registry holds the view.
        plan: the view, its offline files written.
        batch_rows: rows per write.

    Returns:
        The keys written.

    Raises:
        ServiceError: what reads back is not what was written.
    """
    latest = latest_rows(read_keys(plan), plan.key.name)
    store.config.online_store.skip_dedup = True
    with progress(f"{plan.name} online", latest.num_rows) as advance:
        for start in range(0, latest.num_rows, batch_rows):
            batch = _with_vectors(latest.slice(start, batch_rows), plan)
            store.write_to_online_store(plan.name, df=batch.to_pandas())
            advance(batch.num_rows)
    _compare(store, plan, _with_vectors(_sample(latest), plan))
    return int(latest.num_rows)


def bytes_per_key(store: "FeatureStore", plan: ViewPlan, redis: Redis) -> int:
    """Mean memory of the entity's keys in Redis, all views of the entity together, over a sample."""
    from feast.infra.key_encoding_utils import serialize_entity_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    sizes: list[Any] = []
    with connect(redis) as client:
        for key in _sample(latest_rows(read_keys(plan), plan.key.name)).column(plan.key.name).to_pylist():
            entity = EntityKey(join_keys=[plan.key.name], entity_values=[Value(string_val=key)])
            stored = serialize_entity_key(entity, entity_key_serialization_version=3) + store.project.encode()
            sizes.append(client.memory_usage(stored) or 0)
    return int(sum(sizes) / max(len(sizes), 1))


def persist(redis: Redis) -> None:
    """Has a work directory's own server write its data to disk, so that the receipt never outlives the publication."""
    if redis.kind is RedisKind.OWN:
        with connect(redis) as client:
            client.save()


def read_online(store: "FeatureStore", plan: ViewPlan, names: Sequence[str], keys: Sequence[str]) -> dict[str, Any]:
    """Feast's answer for some keys: feature name → values, None where the key has none."""
    features = [f"{plan.name}:{name}" for name in names]
    rows = [{plan.key.name: key} for key in keys]
    return dict(store.get_online_features(features=features, entity_rows=rows).to_dict())


def _with_vectors(latest: pa.Table, plan: ViewPlan) -> pa.Table:
    if "vector" not in plan.file_schema.names:
        return latest
    vectors_ND = np.load(plan.files.parent / VECTORS_FILE, mmap_mode="r")[latest.column("vector_row").to_numpy()]
    offsets = pa.array(np.arange(len(vectors_ND) + 1, dtype=np.int32) * vectors_ND.shape[1])
    return latest.append_column("vector", pa.ListArray.from_arrays(offsets, pa.array(vectors_ND.reshape(-1))))


def _sample(latest: pa.Table) -> pa.Table:
    """Up to SAMPLE_KEYS rows, evenly spaced."""
    count = min(SAMPLE_KEYS, latest.num_rows)
    return latest.take(np.linspace(0, latest.num_rows - 1, count).astype(np.int64)) if count else latest


def _compare(store: "FeatureStore", plan: ViewPlan, written: pa.Table) -> None:
    names = [field.name for field in plan.features]
    keys = written.column(plan.key.name).to_pylist()
    if not keys:
        return
    answer = read_online(store, plan, names, keys)
    differing = sorted({keys[position] for name in names for position in _differing(answer[name], written, name)})
    if differing:
        raise ServiceError(
            f"{plan.name}: {len(differing)} of {len(keys)} sampled keys read back from Redis differently than written:"
            f" {', '.join(differing[:5])}; another program may be writing there; publish again"
        )


def _differing(read: Sequence[Any], written: pa.Table, name: str) -> Iterator[int]:
    for position, (found, wanted) in enumerate(zip(read, written.column(name).to_pylist(), strict=True)):
        if found != wanted:
            yield position
