"""A log in which an item's vector, and nothing else, decides who clicks it."""

from datetime import UTC, datetime, timedelta

import numpy as np

from pipeline import schemas

START = datetime(2024, 1, 1, tzinfo=UTC)
NUM_ITEMS, NUM_USERS, EVENTS, TRAITS = 900, 60, 60, 4
"""Many items: in the co-clicks of a few, even vectors dealt to the wrong items find something that holds."""


def make_world(save, seed=0, decides=True):
    """Users love one trait each; an item's trait shows in its vector alone. Returns (datasets, vectors by item id)."""
    random = np.random.default_rng(seed)
    trait = random.integers(TRAITS, size=NUM_ITEMS)
    vectors = np.eye(16)[trait] + 0.3 * random.standard_normal((NUM_ITEMS, 16))
    events, snapshots = [], []
    for user in range(NUM_USERS):
        liked = []
        for number in range(EVENTS):
            item, at = int(random.integers(NUM_ITEMS)), START + timedelta(hours=number)
            chance = (0.85 if trait[item] == user % TRAITS else 0.1) if decides else 0.3
            click = int(random.random() < chance)
            if liked:
                snapshots.append(
                    {
                        "user_id": f"u{user}",
                        "snapshot_at": at,
                        "num_events": len(liked),
                        "item_ids": list(liked),
                        "event_times": [START] * len(liked),
                        "labels": [1] * len(liked),
                        "is_embedded": False,
                    }
                )
            events.append(
                {
                    "event_id": len(events),
                    "user_id": f"u{user}",
                    "item_id": f"i{item}",
                    "event_at": at,
                    "is_click": click,
                    "split": "train" if number < 40 else "valid" if number < 50 else "test",
                    "context": [],
                }
            )
            liked += [f"i{item}"] * click
    return _saved(save, events, snapshots), {f"i{number}": vector for number, vector in enumerate(vectors)}


def _saved(save, events, snapshots):
    items = [
        {"item_id": f"i{n}", "title": "t", "text": f"t{n}", "category": "c", "attributes": [], "available_at": None}
        for n in range(NUM_ITEMS)
    ]
    stats = [
        {
            "item_id": f"i{n}",
            "exposures": 10,
            "clicks": 3,
            "ctr_shrunk": 0.3,
            "category_ctr": 0.3,
            "exposure_rank": n + 1,
            "first_seen_at": START,
            "counted_until": START,
        }
        for n in range(NUM_ITEMS)
    ]
    return {
        "items": save("items", schemas.ITEMS, items),
        "interactions": save("interactions", schemas.INTERACTIONS, events),
        "histories": save("histories", schemas.HISTORIES, snapshots),
        "item_stats": save("item_stats", schemas.ITEM_STATS, stats),
    }
