"""A world of texts small enough to tune a language model on: a word of the title decides who clicks.

All datasets that tuned_student reads, each committed; the student is a tiny random Llama whose published vectors are
those of its own forward passes, so that the stages before it need not run.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from msd_models import embed
from msd_models.ctr_records import write_records
from msd_models.student_export import export_model
from msd_models.student_layers import initial_student
from pipeline import config, schemas
from pipeline.source_tables import EventsTable, Files, ItemsTable, Source
from pipeline.storage import Outcome, Workspace, commit, write_shard
from pipeline.texts import text_id

START = datetime(2024, 1, 1, tzinfo=UTC)
WORDS = ("gliders", "drums")
QUERIES = ("something calm", "something loud")
NUM_ITEMS, NUM_USERS, EVENTS = 24, 24, 40
READING = config.Vectors(dtype="float32", max_tokens=48, history_titles=4)


def make_world(folder, *, num_layers=3, reading=READING, seed=0):
    """Dataset name → dataset."""
    world = SimpleNamespace(workspace=Workspace(folder), random=np.random.default_rng(seed), datasets={})
    _items(world)
    _users_and_histories(world)
    _student(world, num_layers)
    _vectors(world, reading)
    _examples(world)
    records = world.workspace.dataset("ctr_records", "0" * 16, None)
    records.folder.mkdir(parents=True)
    names = ("examples", "histories", "items", "users", "item_stats", "context_texts", "item_features", "user_features")
    made = write_records(
        config.CtrRecords(), records.folder, _source(), **{name: world.datasets[name] for name in names}
    )
    commit(records, made, {})
    return world.datasets | {"ctr_records": records}


def _source():
    events = EventsTable(
        files=Files(paths={"": (Path("events.parquet"),)}), context=("query",), text_context=("query",)
    )
    return Source(name="words", items=ItemsTable(files=Files(paths={"": (Path("items.parquet"),)})), events=events)


def save(world, name, schema, rows, settings=None):
    """Commits rows as a dataset of the world."""
    dataset = world.workspace.dataset(name, "0" * 16, schema)
    dataset.folder.mkdir(parents=True)
    write_shard(dataset.folder / "part-00000.parquet", pa.Table.from_pylist(rows, schema=schema))
    commit(dataset, Outcome(rows_in=len(rows), rows_ok=len(rows)), {"settings": settings or {}})
    world.datasets[name] = dataset
    return dataset


def _items(world):
    rows = [
        {
            "item_id": f"i{number}",
            "title": f"{WORDS[number % 2]} {'and more ' * (number % 3)}{number}",
            "text": f"{WORDS[number % 2]} {'and more ' * (number % 3)}{number}",
            "category": "other",
            "attributes": [("colour", "blue")] if number % 3 else [],
            "available_at": None,
        }
        for number in range(NUM_ITEMS)
    ]
    stats = [
        {
            "item_id": row["item_id"],
            "exposures": 1 + number,
            "clicks": 1,
            "ctr_shrunk": 0.5,
            "category_ctr": 0.5,
            "exposure_rank": number + 1,
            "first_seen_at": START,
            "counted_until": START,
        }
        for number, row in enumerate(rows)
    ]
    queries = [{"text_id": text_id(text), "text": text, "num_events": 1} for text in QUERIES]
    save(world, "items", schemas.ITEMS, rows)
    save(world, "item_stats", schemas.ITEM_STATS, stats[::-1])
    save(world, "context_texts", schemas.CONTEXT_TEXTS, queries)


def _users_and_histories(world):
    """Each user likes one word; the history holds items of it, and one that was skipped."""
    profiles, histories = [], []
    for user in range(NUM_USERS):
        profiles.append({"user_id": f"u{user}", "attributes": [("age", str(20 + user))] if user % 2 else []})
        liked = world.random.choice(np.arange(user % 2, NUM_ITEMS, 2), 5, replace=False)
        shown = [*liked.tolist(), int(world.random.integers(NUM_ITEMS))]
        for count in (3, 6):
            histories.append(
                {
                    "user_id": f"u{user}",
                    "snapshot_at": START + timedelta(days=count),
                    "num_events": count,
                    "item_ids": [f"i{item}" for item in shown[:count]],
                    "event_times": [START] * count,
                    "labels": [1] * min(count, 5) + [0] * (count - 5),
                    "is_embedded": True,
                }
            )
    save(world, "users", schemas.USERS, profiles)
    save(world, "histories", schemas.HISTORIES, histories)


def _student(world, num_layers):
    texts = [row["text"] for row in world.datasets["items"].table(["text"]).to_pylist()]
    settings = config.Student(base_model="tiny-random", num_layers=num_layers)
    model, tokenizer = initial_student(settings, texts)
    # Random weights as they are drawn tell texts hardly apart, and the first step of any adapter drowns what they tell.
    with torch.no_grad():
        for layer in model.model.layers:
            for weight in layer.parameters():
                if weight.dim() == 2:
                    weight *= 5
    student = world.workspace.dataset("student", "0" * 16, None)
    student.folder.mkdir(parents=True)
    export_model(model, tokenizer, student.folder / "model", model.dtype)
    commit(student, Outcome(), {})
    world.datasets["student"] = student


def _vectors(world, reading):
    """The student's vectors, and their receipts as the feature store leaves them."""
    made = world.datasets
    told = {name: getattr(reading, name) for name in ("encoder", "history_titles", "max_tokens", "pooling", "dtype")}
    items = embed.embed_items(made["items"].batches(100), reading, made["item_stats"], made["student"])
    users = embed.embed_users(made["histories"].batches(100), reading, made["items"], made["users"], made["student"])
    tables = {
        "item": (schemas.ITEM_VECTORS, pa.Table.from_batches(items), ["item_id"]),
        "user": (schemas.USER_VECTORS, pa.Table.from_batches(users), ["user_id", "snapshot_at"]),
    }
    for kind, (schema, table, keys) in tables.items():
        save(world, f"{kind}_vectors", schema, table.to_pylist(), told)
        # Published rows stand in an order of their own.
        order = world.random.permutation(len(table))
        receipt = world.workspace.dataset(f"{kind}_features", "0" * 16, None)
        receipt.folder.mkdir(parents=True)
        vectors = np.stack(table.column("vector").to_pylist()).astype(np.float32)
        np.save(receipt.folder / "vectors.npy", vectors[order])
        named = table.select(keys).take(pa.array(order)).append_column("vector_row", pa.array(np.arange(len(order))))
        write_shard(receipt.folder / "rows.parquet", named)
        commit(receipt, Outcome(details={"space_id": table.column("space_id")[0].as_py()}), {})
        made[receipt.name] = receipt


def _examples(world):
    """Labels after the second snapshot; a query of the liked word or of the other."""
    place = {}
    for kind in ("item", "user"):
        rows = pq.read_table(world.datasets[f"{kind}_features"].folder / "rows.parquet").to_pylist()
        for row in rows:
            if kind == "item" or row["snapshot_at"] == START + timedelta(days=6):
                place[row[f"{kind}_id"]] = row["vector_row"]
    rows = []
    for number in range(NUM_USERS * EVENTS):
        user, item = number % NUM_USERS, int(world.random.integers(NUM_ITEMS))
        is_match = item % 2 == user % 2
        rows.append(
            {
                "event_id": number,
                "user_id": f"u{user}",
                "item_id": f"i{item}",
                "event_at": START + timedelta(days=7, minutes=number),
                "is_click": int(world.random.random() < (0.9 if is_match else 0.1)),
                "split": "train" if number < 600 else "valid" if number < 800 else "test",
                "context": [("query", QUERIES[int(world.random.integers(2))])] if number % 7 else [],
                "item_vector_row": place[f"i{item}"],
                "user_vector_row": place[f"u{user}"] if number % 11 else None,
                "history_row": 2 * user + 1,
            }
        )
    save(world, "examples", schemas.EXAMPLES, rows)
