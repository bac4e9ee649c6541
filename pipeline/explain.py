"""`msd explain item|user ID`: everything the flow knows of one entity, gathered from the datasets of the call.

Nothing is made and nothing is started: a dataset that is not there says how to make it, and Redis is asked only where
it is running.
"""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pyarrow.parquet as pq

from pipeline.erased import read_erased
from pipeline.errors import UsageError
from pipeline.job import load
from pipeline.runner import Plan
from pipeline.texts import item_text, text_id, user_text

Fact = tuple[str, str]
"""A heading and what is said under it."""
SHOWN_NEIGHBOURS = 5
SEARCHED_IDS = 200_000
"""Ids that are compared with an unknown one: more would take seconds to say a sentence."""
SHOWN_TITLES = 10
HOLDERS = ("items", "users", "item_stats", "user_stats", "histories", "prompts", "teacher_outputs", "item_vectors",
           "user_vectors", "tuned_item_vectors", "tuned_user_vectors", "interactions", "examples")  # fmt: skip
KEYS = ("item_id", "user_id", "entity_id")


@dataclass(frozen=True, kw_only=True)
class Entity:
    """Who or what is explained."""

    level: str
    """item or user."""
    id: str
    text: str
    """As the encoder reads it; empty where nothing is read yet."""
    vector: Mapping[str, Any] | None
    """Its latest row of item_vectors or user_vectors."""


def explain_item(plan: Plan, item_id: str, *, write: bool) -> Iterator[Fact]:
    """What there is of an item.

    Args:
        plan: the datasets meant.
        item_id: of the catalogue.
        write: lets the student write its phrases, which loads the model.

    Raises:
        UsageError: there is no such item.
    """
    item = _one(plan, "items", "item_id", item_id)
    yield "item", f"{item_id}: {item['title']} ({item['category']})"
    text = item_text(item["text"], dict(item["attributes"]))
    yield "text, as it is read", text
    yield from _item_counts(plan, item_id)
    vector = next(iter(_rows(plan, "item_vectors", "item_id", item_id)), None)
    yield from _said(plan, Entity(level="item", id=item_id, text=text, vector=vector), write=write)


def explain_user(plan: Plan, user_id: str, *, write: bool) -> Iterator[Fact]:
    """What there is of a user: see explain_item."""
    if user_id in read_erased(plan.workspace.root):
        yield "user", "erased: nothing is kept of this id, and no run takes its rows in again"
        return
    user = _one(plan, "users", "user_id", user_id)
    told = ", ".join(f"{name}: {value}" for name, value in user["attributes"])
    yield "user", user_id + (f" ({told})" if told else " (no profile)")
    yield from _user_counts(plan, user_id)
    snapshots = sorted(_rows(plan, "histories", "user_id", user_id), key=lambda row: row["snapshot_at"])
    vectors = sorted(_rows(plan, "user_vectors", "user_id", user_id), key=lambda row: row["snapshot_at"])
    vector = vectors[-1] if vectors else None
    read = next((row for row in snapshots if vector and row["snapshot_at"] == vector["snapshot_at"]), None)
    yield "history", _history(plan, snapshots)
    text = _read_text(plan, user, read) if read else ""
    if text:
        yield "text, as it is read", text
    if len(vectors) > 1:
        yield (
            "vectors",
            f"{len(vectors)} snapshots from {_day(vectors[0]['snapshot_at'])} on; above and below, the latest",
        )
    yield from _said(plan, Entity(level="user", id=user_id, text=text, vector=vector), write=write)


def _said(plan: Plan, entity: Entity, *, write: bool) -> Iterator[Fact]:
    """What both levels have in common."""
    yield "teacher", _teacher(plan, entity)
    yield "student", _student(plan, entity, write=write)
    yield "vector", _vector(plan, entity)
    yield "nearest items", _neighbours(plan, entity)
    yield "online", "\n".join(load("feature_repo.explanation:online")(plan.workspace.root, entity.level, entity.id))
    yield "held by", _holders(plan, entity)


def _item_counts(plan: Plan, item_id: str) -> Iterator[Fact]:
    for row in _rows(plan, "item_stats", "item_id", item_id):
        total = plan.dataset("item_stats").num_rows()
        yield (
            "training window",
            f"{row['exposures']:,} exposures, {row['clicks']:,} clicks ({row['ctr_shrunk']:.3f} shrunk, its category"
            f" {row['category_ctr']:.3f}), rank {row['exposure_rank']:,} of {total:,}; known since"
            f" {_day(row['first_seen_at'])}",
        )


def _user_counts(plan: Plan, user_id: str) -> Iterator[Fact]:
    for row in _rows(plan, "user_stats", "user_id", user_id):
        last = f", the last on {_day(row['last_event_at'])}" if row["last_event_at"] else ""
        yield (
            "training window",
            f"{row['exposures']:,} exposures, {row['clicks']:,} clicks ({row['ctr_shrunk']:.3f} shrunk){last}",
        )


def _history(plan: Plan, snapshots: list[dict[str, Any]]) -> str:
    if not snapshots:
        return _not_made(plan, "histories") or "no event before any snapshot"
    last = snapshots[-1]
    titles = _titles(plan, last["item_ids"][-SHOWN_TITLES:])
    told = f"{len(snapshots)} snapshots; {last['num_events']} events before {_day(last['snapshot_at'])}, the latest:"
    lines = [f"  {_day(at)}  {title}" for at, title in zip(last["event_times"][-SHOWN_TITLES:], titles, strict=True)]
    return "\n".join([told, *lines])


def _read_text(plan: Plan, user: Mapping[str, Any], read: Mapping[str, Any]) -> str:
    number = plan.settings["user_vectors"].history_titles
    shown, labels = (read[name][-number:] if number else [] for name in ("item_ids", "labels"))
    return user_text(dict(user["attributes"]), _titles(plan, shown), labels)


def _titles(plan: Plan, item_ids: list[str]) -> list[str]:
    known = {row["item_id"]: row["title"] for row in _rows(plan, "items", "item_id", *dict.fromkeys(item_ids))}
    return [known.get(item_id, item_id) for item_id in item_ids]


def _teacher(plan: Plan, entity: Entity) -> str:
    rows = [row for row in _rows(plan, "teacher_outputs", "entity_id", entity.id) if row["level"] == entity.level]
    if not rows:
        return _not_made(plan, "teacher_outputs") or f"did not read this {entity.level}: it is not in the sample"
    row = rows[0]
    if row["status"] != "ok":
        return f"rejected after {row['attempts']} attempts: {row['reason']}"
    through = f"read through {row['representative_id']}\n" if row["representative_id"] != row["prompt_id"] else ""
    return through + _phrases(row["explicit_phrases"], row["implicit_phrases"]) + f"\nbecause: {row['rationale']}"


def _student(plan: Plan, entity: Entity, *, write: bool) -> str:
    missing = _not_made(plan, "student")
    if missing or not entity.text:
        return missing or "has no text to read"
    if not write:
        return "--write lets it write its phrases, which loads the model"
    writer = load("msd_models.explanation:written_phrases")
    return _phrases(*writer(plan.dataset("student"), plan.settings["student"], entity.text, entity.level))


def _vector(plan: Plan, entity: Entity) -> str:
    name, vector = f"{entity.level}_vectors", entity.vector
    if vector is None:
        return _not_made(plan, name) or f"none: {name} holds no row of this {entity.level}"
    at = vector["available_at"] if entity.level == "item" else vector["snapshot_at"]
    mode = plan.settings[name].mode
    if entity.level == "user" and mode != "text":
        state = f"mode {mode}"
    else:
        state = "of this very text" if text_id(entity.text) == vector["content_hash"] else "of another text than above"
    return (
        f"{len(vector['vector'])} numbers of the space {vector['space_id']}; content {vector['content_hash']}, {state};"
        f" available from {_day(at)}, {_age(at)} old"
    )


def _neighbours(plan: Plan, entity: Entity) -> str:
    features = plan.dataset("item_features")
    if features.manifest is None or entity.vector is None:
        return _not_made(plan, "item_features") or "no vector to compare"
    if features.details["space_id"] != entity.vector["space_id"]:
        return f"item_features is of the space {features.details['space_id']}; run: msd run item_features"
    nearest = load("feature_repo.explanation:nearest_items")
    own = entity.id if entity.level == "item" else None
    found = nearest(features.folder, entity.vector["vector"], SHOWN_NEIGHBOURS, leaving_out=own)
    titles = _titles(plan, [item_id for item_id, _ in found])
    pairs = zip(found, titles, strict=True)
    return "\n".join(f"{cosine:+.3f}  {item_id}  {title}" for (item_id, cosine), title in pairs)


def _holders(plan: Plan, entity: Entity) -> str:
    held = []
    for name in HOLDERS:
        dataset = plan.dataset(name)
        names = dataset.schema.names if dataset.schema is not None else []
        key = next((key for key in (f"{entity.level}_id", "entity_id") if key in names), None)
        if key and dataset.manifest is not None:
            columns = [key, "level"] if key == "entity_id" else [key]
            rows = _rows(plan, name, key, entity.id, columns=columns)
            count = sum(row.get("level", entity.level) == entity.level for row in rows)
            held += [f"{name}/{dataset.fingerprint}: {count:,} {'row' if count == 1 else 'rows'}"] if count else []
    online = load("feature_repo.explanation:publications")(plan.workspace.root, entity.level, entity.id)
    return "\n".join([*held, *online])


def _rows(plan: Plan, name: str, key: str, *wanted: str, columns: list[str] | None = None) -> list[dict[str, Any]]:
    """Rows of a dataset whose key is one of the wanted; none where it is not made."""
    dataset = plan.dataset(name)
    if dataset.manifest is None or not wanted:
        return []
    rows = []
    for path in dataset.shards():
        table = pq.read_table(path, columns=columns, filters=[(key, "in", list(wanted))], partitioning=None)
        rows += table.to_pylist()
    return rows


def _one(plan: Plan, name: str, key: str, wanted: str) -> dict[str, Any]:
    found = _rows(plan, name, key, wanted)
    if found:
        return found[0]
    kind = key.removesuffix("_id")
    missing = _not_made(plan, name)
    if missing:
        raise UsageError(f"nothing is known of {kind} '{wanted}' yet: {missing}")
    batches = plan.dataset(name).batches(65_536)
    known = islice((each for batch in batches for each in batch.column(key).to_pylist()), SEARCHED_IDS)
    close = difflib.get_close_matches(wanted, known, n=3, cutoff=0.5)
    hint = f"; did you mean {', '.join(repr(each) for each in close)}?" if close else f"; see: msd show {name}"
    raise UsageError(f"there is no {kind} '{wanted}' in {plan.source.name}{hint}")


def _not_made(plan: Plan, name: str) -> str:
    """Empty where the dataset is there."""
    return "" if plan.dataset(name).manifest is not None else f"{name} is not made yet; run: msd run {name}"


def _phrases(explicit: list[str], implicit: list[str]) -> str:
    return f"stated: {'; '.join(explicit) or '-'}\nimplied: {'; '.join(implicit) or '-'}"


def _day(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def _age(at: datetime) -> str:
    age: timedelta = datetime.now(UTC) - at
    return f"{age.days:,} days" if age.days >= 2 else f"{age.total_seconds() / 3600:.1f} hours"
