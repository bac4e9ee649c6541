"""Rows of a generation's views → Redis, in Feast's own format; read back, compared byte for byte, and taken out again.

Feast writes row by row (12,000 rows a second) and skips a row whose event_timestamp equals the stored one. Here
commands are made as matrices of bytes (`row_bytes`) and every row replaces what is stored: a generation has hash fields
of its own, so whoever writes it again means the same values. Nothing here needs Feast; it runs in this process and in a
Spark executor alike, on any piece of the rows.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo import feast_format
from feature_repo.definitions import ViewPlan
from feature_repo.hash_rows import HashRows, Shard, segments_of
from feature_repo.redis_link import RedisLink
from feature_repo.resp import command, reply_ends
from feature_repo.row_bytes import Bytes, Shape, same_shape
from feature_repo.vector_codec import Encoded
from pipeline import schemas

READ_ROWS = 1024


def write_rows(link: RedisLink, plan: ViewPlan, rows: pa.Table, encoded: Encoded | None, project: str) -> int:
    """Writes the rows of one view: see write_views."""
    return write_views(link, [Shard(plan=plan, rows=rows, encoded=encoded)], project)


def write_views(link: RedisLink, shards: Sequence[Shard], project: str) -> int:
    """Writes the rows of several views of one entity, one command a key.

    Args:
        link: to the server.
        shards: of the same keys in the same order, each key once.
        project: Feast's project.

    Returns:
        Bytes sent.

    Raises:
        ServiceError: the server refuses a command, or is gone.
    """
    before = link.bytes_sent
    table = HashRows(shards, project)
    for rows, lengths in table.shapes():
        shape = Shape(table.hset(lengths))
        for chunk in shape.chunks(rows):
            commands = shape.fill(chunk)
            link.write(commands.data, len(commands))
    link.finish()
    return link.bytes_sent - before


def differing_keys(link: RedisLink, plan: ViewPlan, rows: pa.Table, encoded: Encoded | None, project: str) -> pa.Array:
    """Reads every key's fields back and compares them with what write_rows sends.

    Args:
        link: to the server.
        plan: the view.
        rows: as given to write_rows.
        encoded: as given to write_rows.
        project: Feast's project.

    Returns:
        The keys of which any byte differs or is missing.
    """
    table = HashRows([Shard(plan=plan, rows=rows, encoded=encoded)], project)
    differing: list[npt.NDArray[np.intp]] = []
    everything = np.arange(rows.num_rows)
    for numbers, lengths in table.shapes():
        asked, wanted = Shape(table.hmget(lengths)), Shape(table.reply(lengths))
        for chunk in wanted.chunks(numbers):
            answer = link.fetch(asked.fill(chunk).data)
            expected = wanted.fill(chunk)
            if answer != expected.data:
                differing.append(everything[chunk][_differing_rows(answer, expected)])
    return table.ids.take(pa.array(np.concatenate(differing))) if differing else table.ids.slice(0, 0)


def read_back(link: RedisLink, plan: ViewPlan, keys: pa.Array, project: str) -> pa.Table:
    """What Redis holds of a view for some keys, in their order.

    Returns:
        The key, the features and event_timestamp, null where nothing is stored; `vector` as its stored bytes, which
        Codec.decode reads.
    """
    names = feast_format.field_names(plan)
    stored: list[Any] = []
    redis_keys = feast_format.redis_keys(plan.key.name, keys.to_pylist(), project)
    for start in range(0, len(redis_keys), READ_ROWS):
        some = redis_keys[start : start + READ_ROWS]
        stored += link.ask_all([command(b"HMGET", key, *names) for key in some])
    times = [feast_format.read_time(fields[0]) for fields in stored]
    columns: dict[str, pa.Array] = {plan.key.name: keys}
    for number, field in enumerate(plan.features, start=1):
        values = [feast_format.read_value(fields[number], field.type) for fields in stored]
        columns[field.name] = pa.array(values, pa.binary() if field.name == "vector" else field.type)
    columns["event_timestamp"] = pa.array(times, pa.int64()).cast(schemas.TIME)
    return pa.table(columns)


def delete_fields(link: RedisLink, plans: Sequence[ViewPlan], keys: pa.Array, project: str) -> int:
    """Takes the fields of some views of one entity out of exactly these keys; Redis drops a key with no field left.

    Nothing is scanned, and no other project's or view's field is touched.

    Returns:
        Fields that were there.
    """
    names = [name for plan in plans for name in feast_format.field_names(plan)]
    piece = feast_format.key_piece(plans[0].key.name, keys)
    for rows, lengths in same_shape([piece.lengths_N]):
        key = [*piece.segments(lengths[0]), project.encode()]
        shape = Shape(segments_of([b"HDEL"], key, *([name] for name in names)))
        for chunk in shape.chunks(rows):
            commands = shape.fill(chunk)
            link.write(commands.data, len(commands))
    return link.finish()


def _differing_rows(answer: bytearray, expected_NB: Bytes) -> npt.NDArray[np.intp]:
    """Which of the expected replies are not what came."""
    ends = reply_ends(answer)
    came = [bytes(answer[start:end]) for start, end in pairwise([0, *ends])]
    return np.flatnonzero([reply != row.tobytes() for reply, row in zip(came, expected_NB, strict=True)])
