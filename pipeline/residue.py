"""The last search of an erasure: the id as a word in everything a work folder still holds.

An id that is long enough to be told from other things is looked for in every text column of every Parquet file and in
the bytes of every other file. A short one (`13`) stands in every file as a number: for it the columns that hold ids of
users are the proof (`Person.mask`), and here only JSON texts that are exactly the id.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.person import Person

BLOCK_BYTES = 2**24
OVERLAP_BYTES = 4096
"""Longer than any id, so that none is lost or cut between two blocks."""
NOT_USERS = ("item_id", "item_ids", "category", "stratum", "content_hash", "content_key", "space_id", "template_id")
"""Text columns that hold no ids of users."""
JSON_ENDINGS = (".json", ".jsonl")


def search(root: Path, person: Person) -> Iterator[tuple[Path, int]]:
    """Files in which the id still stands as a word, and how often."""
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        if path.suffix == ".parquet":
            hits = _in_table(path, person) if person.is_telling else 0
        elif person.is_telling:
            hits = _in_bytes(path, person.word, person)
        else:
            hits = _in_bytes(path, _json_text(person), person) if path.suffix in JSON_ENDINGS else 0
        if hits:
            yield path, hits


def _json_text(person: Person) -> "re.Pattern[bytes]":
    spelt = {json.dumps(person.user_id).encode(), json.dumps(person.user_id, ensure_ascii=False).encode()}
    return re.compile(b"|".join(re.escape(text) for text in sorted(spelt)))


def _in_bytes(path: Path, pattern: "re.Pattern[bytes]", person: Person) -> int:
    """Matches in a file read block by block; the end of a block is judged together with the next one."""
    # Plain search first: it reads a gigabyte a second, the pattern a tenth of that.
    spelt = [spelling.encode() for spelling in person.spellings]
    hits, held, first = 0, b"", 0
    with path.open("rb") as file:
        while True:
            block = file.read(BLOCK_BYTES)
            joined = held + block
            is_last = len(block) < BLOCK_BYTES
            limit = len(joined) if is_last else len(joined) - OVERLAP_BYTES
            if any(spelling in joined for spelling in spelt):
                hits += sum(first <= match.start() < limit for match in pattern.finditer(joined))
            if is_last:
                return hits
            held, first = joined[limit - 1 :], 1


def _in_table(path: Path, person: Person) -> int:
    """Text values, also those in lists, maps and structs, that hold the id as a word."""
    hits = 0
    with pq.ParquetFile(path) as file:
        wanted = [field.name for field in file.schema_arrow if field.name not in NOT_USERS and _has_text(field.type)]
        for batch in file.iter_batches(columns=wanted) if wanted else ():
            for column in batch.columns:
                hits += sum(_count(texts, person) for texts in _texts(column))
    return hits


def _count(texts: pa.Array, person: Person) -> int:
    near = texts.filter(person.may_stand_in(texts))
    return sum(person.word.search(text.encode()) is not None for text in near.to_pylist())


def _has_text(kind: pa.DataType) -> bool:
    if pa.types.is_nested(kind):
        return any(_has_text(kind.field(number).type) for number in range(kind.num_fields))
    return _is_text(kind) or (pa.types.is_dictionary(kind) and _is_text(kind.value_type))


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _texts(column: Any) -> Iterator[pa.Array]:
    """The text arrays a column is made of."""
    if pa.types.is_map(column.type):
        yield from _texts(column.keys)
        yield from _texts(column.items)
    elif pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        yield from _texts(column.flatten())
    elif pa.types.is_struct(column.type):
        for inner in column.flatten():
            yield from _texts(inner)
    elif pa.types.is_dictionary(column.type):
        yield from _texts(column.dictionary)
    elif _is_text(column.type):
        yield column
