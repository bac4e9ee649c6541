"""A small world on disk for the CTR models: clicks follow from what the vectors say and from nothing else."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa

from msd_models.context_rows import text_id
from msd_models.ctr_records import write_records
from pipeline import schemas
from pipeline.config import CtrRecords
from pipeline.stages import BY_NAME
from pipeline.storage import Dataset, Outcome, Workspace, commit, write_shard

NUM_TRAITS, DIM, HISTORY = 6, 12, 8
RECORDS = CtrRecords(max_history=HISTORY)


def make_ctr_world(
    folder: Path, num_users: int = 60, num_items: int = 80, per_user: int = 10, seed: int = 0, **changes
):
    """Writes every dataset that ctr_records and ctr_model are made from; returns them by name.

    A user likes one trait; the item's vector shows its trait, its id (seldom met) and attributes do not.
    """
    random = np.random.default_rng(seed)
    world = SimpleNamespace(workspace=Workspace(folder), random=random)
    trait_item = random.integers(NUM_TRAITS, size=num_items)
    trait_user = random.integers(NUM_TRAITS, size=num_users)
    alike = [np.flatnonzero(trait_item == trait) for trait in range(NUM_TRAITS)]
    direction = np.linalg.qr(random.standard_normal((DIM, DIM)))[0][:NUM_TRAITS]
    vectors = (3 * direction[trait_item] + 0.3 * random.standard_normal((num_items, DIM))).astype(np.float32)
    item_ids, user_ids = _names("item", num_items), _names("user", num_users)

    liked = [random.choice(alike[trait_user[user]], HISTORY) for user in range(num_users)]
    history = [np.where(random.random(HISTORY) < 0.8, own, random.integers(num_items, size=HISTORY)) for own in liked]
    lengths = random.integers(3, HISTORY + 1, size=num_users)
    history = [own[:length] for own, length in zip(history, lengths, strict=True)]

    user = np.tile(np.arange(num_users), per_user)
    item = np.where(
        random.random(len(user)) < 0.5,
        [random.choice(alike[trait_user[number]]) for number in user],
        random.integers(num_items, size=len(user)),
    )
    click = random.random(len(user)) < np.where(trait_item[item] == trait_user[user], 0.9, 0.1)
    split = np.array(["train", "valid", "test"])[np.digitize(np.arange(len(user)) / len(user), [0.6, 0.8])]
    facts = {"user": user, "item": item, "click": click, "split": split, **changes}
    stats = np.bincount(facts["item"][facts["split"] == "train"], minlength=num_items)
    user_vectors = np.stack([vectors[own].mean(axis=0) for own in history])
    histories = [[item_ids[i] for i in own] for own in history]
    return (
        _write_tables(world, facts, item_ids, user_ids, histories, stats)
        | _write_vectors(world, item_ids, user_ids, vectors, user_vectors)
        | _write_texts(world, facts.get("queries", []))
    )


def write_ctr_records(world: dict[str, Dataset], config=RECORDS, text_context=()) -> Dataset:
    """Makes the world's ctr_records and returns the dataset."""
    folder = world["examples"].folder.parents[1]
    number = len(list(folder.glob("ctr_records/*")))
    dataset = Workspace(folder).dataset("ctr_records", f"{number:016d}", None)
    dataset.folder.mkdir(parents=True)
    source = SimpleNamespace(events=SimpleNamespace(text_context=text_context))
    inputs = {name: world[name] for name in BY_NAME["ctr_records"].inputs}
    commit(dataset, write_records(config, dataset.folder, source, **inputs), {})
    return dataset


def _write_tables(world, facts, item_ids, user_ids, history, stats) -> dict[str, Dataset]:
    about_items = _write_items(world, item_ids, stats)
    return about_items | _write_users(world, user_ids, history) | _write_examples(world, facts, item_ids, user_ids)


def _write_items(world, item_ids, stats) -> dict[str, Dataset]:
    items = len(item_ids)
    return {
        "items": _commit(
            world,
            "items",
            schemas.ITEMS,
            {
                "item_id": item_ids,
                "title": item_ids,
                "text": item_ids,
                "category": [f"category {number % 3}" for number in range(items)],
                "attributes": _maps(
                    [{"price": str(number * 1.5), "brand": f"brand {number % 4}"} for number in range(items)]
                ),
                "available_at": pa.nulls(items, schemas.TIME),
            },
        ),
        "item_stats": _commit(
            world,
            "item_stats",
            schemas.ITEM_STATS,
            {
                "item_id": item_ids,
                "exposures": stats,
                "clicks": stats // 2,
                "ctr_shrunk": np.full(items, 0.5),
                "category_ctr": np.full(items, 0.5),
                "exposure_rank": np.arange(1, items + 1),
                "first_seen_at": _times(np.zeros(items)),
                "counted_until": _times(np.full(items, 10_000)),
            },
        ),
    }


def _write_users(world, user_ids, history) -> dict[str, Dataset]:
    users = len(user_ids)
    return {
        "users": _commit(
            world,
            "users",
            schemas.USERS,
            {
                "user_id": user_ids,
                "attributes": _maps([{"age": str(20 + number % 50)} if number % 5 else {} for number in range(users)]),
            },
        ),
        "histories": _commit(
            world,
            "histories",
            schemas.HISTORIES,
            {
                "user_id": user_ids,
                "snapshot_at": _times(np.full(users, 100)),
                "num_events": [len(own) for own in history],
                "item_ids": pa.array(history, pa.list_(pa.string())),
                "event_times": pa.array([[0] * len(own) for own in history], pa.list_(pa.int64())).cast(
                    pa.list_(schemas.TIME)
                ),
                "labels": pa.array([[1] * len(own) for own in history], pa.list_(pa.int8())),
                "is_embedded": [True] * users,
            },
        ),
    }


def _write_examples(world, facts, item_ids, user_ids) -> dict[str, Dataset]:
    count = len(facts["user"])
    queries = facts.get("queries", [""] * count)
    return {
        "examples": _commit(
            world,
            "examples",
            schemas.EXAMPLES,
            {
                "event_id": np.arange(count),
                "user_id": np.array(user_ids)[facts["user"]],
                "item_id": np.array(item_ids)[facts["item"]],
                "event_at": _times(1000 + np.arange(count)),
                "is_click": facts["click"].astype(np.int8),
                "split": facts["split"],
                "context": _maps(
                    [
                        {"device": f"device {number % 2}"} | ({"query": queries[number]} if queries[number] else {})
                        for number in range(count)
                    ]
                ),
                "item_vector_row": facts.get("item_row", pa.array(facts["item"])),
                "user_vector_row": facts.get("user_row", pa.array(facts["user"])),
                "history_row": facts.get("history_row", pa.array(facts["user"])),
            },
        ),
    }


def _write_vectors(world, item_ids, user_ids, items, users) -> dict[str, Dataset]:
    """The published vectors, and in their place for the text encoder's the same ones turned by a random rotation."""
    turn = np.linalg.qr(world.random.standard_normal((DIM, DIM)))[0].astype(np.float32)
    moment = _times(np.full(len(user_ids), 100))
    backwards = slice(None, None, -1)
    made = {}
    for name, vectors, keys in (
        ("item_features", items, {"item_id": item_ids}),
        ("user_features", users, {"user_id": user_ids, "snapshot_at": moment}),
    ):
        dataset = world.workspace.dataset(name, "0" * 16, None)
        dataset.folder.mkdir(parents=True)
        np.save(dataset.folder / "vectors.npy", vectors)
        write_shard(dataset.folder / "rows.parquet", pa.table({"vector_row": np.arange(len(vectors)), **keys}))
        commit(dataset, Outcome(details={"space_id": "student"}), {})
        made[name] = dataset
    for kind, space in (("item_text_vectors", "text"), ("tuned_item_vectors", "tuned")):
        keys = {"item_id": item_ids[backwards], "available_at": _times(np.zeros(len(items)))}
        vectors = pa.array(list(items[backwards] @ turn), schemas.VECTOR)
        rest = {"space_id": [space] * len(items), "content_hash": ["0"] * len(items)}
        made[kind] = _commit(world, kind, schemas.ITEM_VECTORS, {**keys, "vector": vectors, **rest})
    for kind, space in (("user_text_vectors", "text"), ("tuned_user_vectors", "tuned")):
        vectors = pa.array(list(users[backwards] @ turn), schemas.VECTOR)
        rest = {"space_id": [space] * len(users), "content_hash": ["0"] * len(users)}
        keys = {"user_id": user_ids[backwards], "snapshot_at": moment, "vector": vectors}
        made[kind] = _commit(world, kind, schemas.USER_VECTORS, {**keys, **rest})
    return made


def _write_texts(world, queries) -> dict[str, Dataset]:
    """Texts of events, their vectors, and the tuned student's vectors: again the same numbers, turned."""
    texts = sorted({query for query in queries if query})
    ids = [text_id(text) for text in texts]
    columns = {"text_id": ids, "text": texts, "num_events": [1] * len(texts)}
    made = {"context_texts": _commit(world, "context_texts", schemas.CONTEXT_TEXTS, columns)}
    for name, space in (
        ("context_vectors", "student"),
        ("context_text_vectors", "text"),
        ("tuned_context_vectors", "tuned"),
    ):
        vectors = world.random.standard_normal((len(texts), DIM)).astype(np.float32)
        columns = {"text_id": ids, "vector": pa.array(list(vectors), schemas.VECTOR)}
        columns |= {"space_id": [space] * len(ids), "content_hash": ["0"] * len(ids)}
        made[name] = _commit(world, name, schemas.CONTEXT_VECTORS, columns)
    return made


def _commit(world, name: str, schema: pa.Schema, columns) -> Dataset:
    dataset = world.workspace.dataset(name, "0" * 16, schema)
    dataset.folder.mkdir(parents=True)
    table = pa.table([pa.array(columns[field.name]).cast(field.type) for field in schema], schema=schema)
    write_shard(dataset.folder / "part-00000.parquet", table)
    commit(dataset, Outcome(), {})
    return dataset


def _names(kind: str, count: int) -> list[str]:
    return [f"{kind} {number}" for number in range(count)]


def _times(seconds) -> pa.Array:
    return pa.array((np.asarray(seconds) * 1_000_000).astype(np.int64)).cast(schemas.TIME)


def _maps(rows) -> pa.Array:
    return pa.array([list(row.items()) for row in rows], schemas.ATTRIBUTES)
