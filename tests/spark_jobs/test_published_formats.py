"""The built-in sources for MIND and KDD Cup 2012, on small folders in the published formats."""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.errors import SourceError
from pipeline.runner import make_plan, run
from pipeline.settings import resolve
from pipeline.source import load_source
from pipeline.storage import Workspace

pytestmark = pytest.mark.spark


def make(world, reference, *overrides):
    source = load_source(f"{reference}:{world.folder / 'data'}")
    plan = make_plan(Workspace(world.folder / "work"), source, resolve("tiny", overrides))
    run(plan, ["histories", "users"])
    return plan


def write_mind(world):
    news = 'N{n}\tsports\tsoccer\tTitle "{n}\tAbstract {n}\thttps://x/{n}\t[]\t[]\n'
    world.write("data/train/news.tsv", "".join(news.format(n=n) for n in range(6)))
    world.write("data/dev/news.tsv", "".join(news.format(n=n) for n in range(4, 9)))
    shown = "N1-1 N2-0 N3-0"
    rows = [f"{n}\tU{n % 3}\t11/{n + 10}/2019 8:36:57 AM\tN4 N5\t{shown}\n" for n in range(10)]
    world.write("data/train/behaviors.tsv", "".join(rows))
    later = "1\tU1\t11/25/2019 12:00:00 AM\tN4 N1\tN7-1 N8-0\n2\tU9\t11/26/2019 1:02:03 PM\tN6\tN8-0 N7-1\n"
    world.write("data/dev/behaviors.tsv", later + "3\tU9\t11/27/2019 1:02:03 PM\tN6\tN8 N7-0\nbroken line\n")


def test_mind_impressions_become_events_and_histories(world):
    write_mind(world)
    plan = make(world, "mind")
    rows = plan.dataset("interactions").table().to_pylist()
    assert plan.dataset("items").table().column("item_id").to_pylist() == [f"N{number}" for number in range(9)]
    assert plan.dataset("items").table().column("title").to_pylist()[1] == 'Title "1'
    counts = Counter(row["split"] for row in rows)
    assert counts["test"] == 5
    assert counts["train"] + counts["valid"] == 30
    assert counts["history"] == 2 * 3 + 1
    assert plan.dataset("interactions").manifest["reasons"] == {"no label": 1, "not 5 fields": 1}
    test = [row for row in rows if row["split"] == "test"]
    assert [(row["user_id"], row["item_id"], row["is_click"]) for row in test[:4]] == [
        ("U1", "N7", 1), ("U1", "N8", 0), ("U9", "N8", 0), ("U9", "N7", 1),
    ]  # fmt: skip
    assert test[0]["event_at"] == datetime(2019, 11, 25, tzinfo=UTC)
    assert test[2]["event_at"] == datetime(2019, 11, 26, 13, 2, 3, tzinfo=UTC)
    histories = {
        (row["user_id"], row["snapshot_at"]): row["item_ids"] for row in plan.dataset("histories").table().to_pylist()
    }
    assert histories["U0", datetime(2019, 11, 10, 8, 36, 57, tzinfo=UTC)] == ["N4", "N5"]
    assert histories["U9", datetime(2019, 11, 26, 13, 2, 3, tzinfo=UTC)] == ["N6"]


def test_a_folder_that_is_no_mind_says_what_is_missing(world):
    world.write("data/train/news.tsv", "")
    with pytest.raises(SourceError, match=r"data has no dev/news.tsv; unpack MIND so that"):
        make(world, "mind")


def write_kdd(world):
    training = [(1, 3, 77, 100 + n % 4, 9 + n % 2, 2, 1, n % 5, n % 3, n % 4, n % 4, n % 6) for n in range(30)]
    rows = ["\t".join(map(str, row)) for row in training]
    world.write("data/training.txt", "\n".join([*rows, "3\t1\t77\t100\t9\t2\t1\t1\t1\t1\t1\t1"]) + "\n")
    for name in ("query", "purchasedkeyword", "title", "description"):
        world.write(f"data/{name}id_tokensid.txt", "".join(f"{n}\t{n}{len(name)}|7\n" for n in range(5)))
    world.write("data/userid_profile.txt", "".join(f"{n}\t{n % 3}\t{n % 6}\n" for n in range(1, 5)))
    return training


def test_kdd_sessions_become_one_event_per_impression(world):
    training = write_kdd(world)
    plan = make(world, "kdd-cup-2012")
    rows = plan.dataset("interactions").table().to_pylist()
    assert [row["is_click"] for row in rows] == [1, 0, 0] * 30
    assert [row["item_id"] for row in rows] == [str(row[3]) for row in training for _ in range(3)]
    assert [row["user_id"] for row in rows] == [
        str(row[11]) if row[11] else f"0-{row[7]}" for row in training for _ in range(3)
    ]
    assert dict(rows[3]["context"]) == {"query": "t15 t7", "depth": "2", "position": "1"}
    assert plan.dataset("interactions").manifest["reasons"] == {"clicks and impressions that cannot be": 1}
    item = plan.dataset("items").table().to_pylist()[1]
    assert (item["item_id"], item["text"], item["category"]) == ("101", "t15 t7\nt111 t7", "10")
    assert dict(item["attributes"])["keyword"] == "t116 t7"
    run(plan, ["context_texts"])
    texts = plan.dataset("context_texts").table().to_pylist()
    assert {row["text"]: row["num_events"] for row in texts} == {f"t{n}5 t7": 18 for n in range(5)}
    users = {row["user_id"]: dict(row["attributes"]) for row in plan.dataset("users").table().to_pylist()}
    assert users["4"] == {"gender": "1", "age": "4"}
    assert users["0-0"] == {}


@pytest.mark.parametrize("name", ["ml-latest-small", "dkn-bing", "amazon-industrial"])
def test_the_documented_sources_parse_with_their_folder(world, name):
    files = {
        "ml-latest-small": ["movies.csv", "ratings.csv"],
        "dkn-bing": ["raw_train.txt", "raw_test.txt"],
        "amazon-industrial": ["Industrial_and_Scientific.item.json", "valid.csv", "test.csv"],
    }[name]
    for file in files:
        world.write(f"data/{file}", "x")
    toml = Path(__file__).parents[2] / "docs" / "sources" / f"{name}.toml"
    source = load_source(f"{toml}:{world.folder / 'data'}")
    assert {path.name for path in source.all_paths()} == set(files)
