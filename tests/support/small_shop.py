"""A shop's export with ids that tempt: prefixes of each other, quotes and commas, letters of other scripts."""

import csv
import json
import random
import shutil
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.call import plan_of
from pipeline.dataset_erasure import datasets
from pipeline.erasure import Erasure

USERS = ["ann1", "ann10", "ann100", 'O"Neil, Ann', "Zoë Müller", "用户七", *(f"guest-{number}" for number in range(24))]
WORDS = ("amber", "birch", "cedar", "dune", "ember", "fjord", "grove", "heath")
SOURCE = """
[items]
path = "items.csv"
[events]
path = "log"
time = "at"
label = "click"
context = ["query"]
text_context = ["query"]
[users]
path = "people.jsonl"
attributes = ["town"]
[labels]
split = { by = "time", fractions = [0.7, 0.1, 0.2] }
"""
PRESET = """
[prompts]
item_rows = 24
user_rows = 26
near_duplicate = 2.0
[histories]
embed_min_events = 1
[teacher_outputs]
generator = "scripted"
script = "{script}"
[student]
base_model = "tiny-random"
num_layers = 2
epochs = 1
max_holdout_rows = 8
[publication]
min_effective_rank = 0.0
max_mean_cosine = 1.0
"""
MADE = ("publication", "ctr_records", "context_vectors")
OWN_QUERY = "only ever asked by {user}"


def write_shop(folder: Path) -> tuple[Path, Path]:
    """Writes the files; returns the source and the preset."""
    rng = random.Random(3)
    titles = [
        f"{first} {second} {number}" for number, (first, second) in enumerate((a, b) for a in WORDS for b in WORDS)
    ]
    with (folder / "items.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("item_id", "title"), *((f"i{n}", title) for n, title in enumerate(titles))])
    (folder / "log").mkdir()
    for part in range(2):
        with (folder / "log" / f"{part}.csv").open("w", newline="", encoding="utf-8") as file:
            out = csv.writer(file)
            out.writerow(["user_id", "item_id", "at", "click", "query"])
            out.writerows(_events(rng, part))
            out.writerow(["ann1", "i1", "yesterday", 1, "broken"])
    people = [json.dumps({"user_id": user, "town": f"town of {user}"}) for user in USERS]
    (folder / "people.jsonl").write_text("\n".join(people) + "\n", encoding="utf-8")
    script = [
        {"text": title, "rationale": f"{title} is a tree", "explicit": [title], "implicit": ["wood", title.split()[0]]}
        for title in titles
    ]
    (folder / "teacher.jsonl").write_text("\n".join(map(json.dumps, script)), encoding="utf-8")
    (folder / "shop.toml").write_text(SOURCE, encoding="utf-8")
    (folder / "tiny.toml").write_text(PRESET.format(script=folder / "teacher.jsonl"), encoding="utf-8")
    return folder / "shop.toml", folder / "tiny.toml"


def _events(rng: random.Random, part: int) -> list[tuple[object, ...]]:
    rows = []
    for row in range(360):
        user = USERS[rng.randrange(len(USERS))]
        query = OWN_QUERY.format(user=user) if row % 9 == 0 else rng.choice(WORDS)
        rows.append((user, f"i{rng.randrange(64)}", 1_700_000_000 + part * 400_000 + row * 1_000, row % 2, query))
    return rows


class Shop:
    """A shop's files and the work folder made of them."""

    def __init__(self, folder: Path, run) -> None:
        self.folder = folder
        self.work = folder / "work"
        self.run = run

    @property
    def options(self):
        files = self.folder / "files"
        return ("--source", str(files / "shop.toml"), "--preset", str(files / "tiny.toml"))

    def msd(self, *arguments):
        return self.run(*arguments, *self.options, work=self.work)

    def erase(self, user_id, **options):
        """In this process: (what was found, what is left)."""
        source, preset = self.folder / "files" / "shop.toml", self.folder / "files" / "tiny.toml"
        erasure = Erasure(plan_of(self.work, str(source), str(preset), []), user_id, **options)
        before = erasure.survey()
        return before, erasure.run(before)

    def copy(self, folder):
        shutil.copytree(self.folder, folder)
        return Shop(folder, self.run)

    def rows(self, name, pattern="**/*.parquet"):
        """Rows by file, relative to the dataset."""
        paths = sorted(path for each in datasets(self.work) if each.name == name for path in each.folder.glob(pattern))
        return {str(path.relative_to(self.work)): pq.read_table(path, partitioning=None).to_pylist() for path in paths}
