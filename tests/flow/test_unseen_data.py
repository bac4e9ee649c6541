"""The real flow, with a real teacher under vLLM, on files the project has never seen and a person would have."""

import csv
import json
import random
import time

import pytest

pytestmark = [pytest.mark.spark, pytest.mark.redis, pytest.mark.feast, pytest.mark.vllm, pytest.mark.slow]

ADJECTIVES = ("Crispy", "Smoked", "Frozen", "Organic", "Spicy", "Sugar-free", "Creamy", "Roasted")
FOODS = ("Almonds", "Oat Ice Cream", "Tofu", "Ramen", "Granola", "Tomato Soup", "Cheddar", "Dark Chocolate")
SOURCE = """
[items]
path = "products.csv"
id = "sku"
text = ["name", "blurb"]
category = "aisle"
attributes = ["price"]
[events]
path = "orders"
user = "customer"
item = "sku"
time = "at"
label = { column = "stars", positive = ">= 4" }
context = ["device"]
"""
# The preset's models and arms, each in few rows, steps and seeds.
SETTINGS = (
    "prompts.item_rows=12",
    "prompts.user_rows=4",
    "student.epochs=1",
    "student.max_holdout_rows=2",
    "tuned_student.max_steps=2",
    'ctr_model.arms=["deepfm", "din", "raw_text", "shuffled_vectors", "msd_frozen", "msd"]',
    "ctr_model.seeds=[1]",
    "ctr_model.max_epochs=1",
    "report.bootstrap_rounds=40",
)


@pytest.fixture
def shop(tmp_path):
    """A small shop's export: odd names, quotes, a few broken rows, two event files, ISO times."""
    rng = random.Random(5)
    with (tmp_path / "products.csv").open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["sku", "name", "blurb", "aisle", "price"])
        for number, (adjective, food) in enumerate((a, f) for a in ADJECTIVES for f in FOODS):
            blurb = f'{adjective} {food}, "as at home" 🍦\nbest before {number % 12 + 1}/27'
            out.writerow([f"S{number}", f"{adjective} {food}", blurb, food.split()[0], round(rng.uniform(1, 9), 2)])
        out.writerow(["", "no id", "", "", ""])
        out.writerow(["S1", "twice", "", "", ""])
    (tmp_path / "orders").mkdir()
    start = time.mktime((2026, 1, 1, 0, 0, 0, 0, 0, 0))
    for part in range(2):
        with (tmp_path / "orders" / f"{part}.csv").open("w", newline="", encoding="utf-8") as file:
            out = csv.writer(file)
            out.writerow(["customer", "sku", "at", "stars", "device"])
            for row in range(700):
                at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(start + part * 700_000 + row * 1_000))
                customer, sku = f"C{rng.randrange(40)}", f"S{rng.randrange(64)}"
                out.writerow([customer, sku, at, rng.choice([1, 2, 4, 5]), rng.choice(["phone", "desktop"])])
            out.writerow(["C1", "S999", "2026-01-05T00:00:00Z", 5, "phone"])
            out.writerow(["C1", "S1", "yesterday", 5, "phone"])
    source = tmp_path / "shop.toml"
    source.write_text(SOURCE)
    return source


def test_a_stranger_runs_the_report_on_files_of_his_own(fresh_msd, shop, tmp_path):
    work = tmp_path / "work"
    settings = [f"--set={setting}" for setting in SETTINGS]
    ended = fresh_msd("run", "report", "--source", str(shop), "--preset", "tiny", *settings, work=work)
    assert ended.returncode == 0, ended.stderr
    report = json.loads((work / "report" / "report.json").read_text())
    assert {arm["name"] for arm in report["arms"]} >= {"deepfm", "din", "raw_text", "shuffled_vectors", "msd_frozen"}
    assert report["teacher"]["rows"] > 0
    assert report["teacher"]["tokens"] > 0
    assert report["verdict"], "the report must say in words what it found"
    assert "Traceback" not in ended.stderr
    assert "2 rejected" in ended.stderr  # the item without an id and the one that comes twice
    page = (work / "report" / "report.html").read_text()
    assert "Oat Ice Cream" in page or "Tofu" in page
