"""Near-duplicates against a plain reference: no wrong pair, few missed, no chains, numbers apart, any partitioning."""

import random
from collections import defaultdict
from itertools import combinations, pairwise

import psutil
import pytest

from pipeline.errors import ConfigError
from spark_jobs.near_duplicates import _nearest_read, count_read, with_representatives
from spark_jobs.similar_texts import NUM_BANDS, band_width

pytestmark = pytest.mark.spark

THRESHOLD = 0.9
COLUMNS = "prompt_id string, level string, text string"


def collapse(spark, texts, threshold=THRESHOLD, partitions=2, level="item"):
    """prompt_id → row, of texts whose ids are their places."""
    rows = [(f"{level}:{place}", level, text) for place, text in enumerate(texts)]
    frame = spark.createDataFrame(rows, COLUMNS).repartition(partitions)
    return {row["prompt_id"]: row for row in with_representatives(frame, threshold).collect()}


def groups(rows):
    """The texts the teacher reads, each with the places it stands for."""
    found = {}
    for row in rows.values():
        found.setdefault(row["representative_id"], []).append(int(row["prompt_id"].split(":")[1]))
    return sorted(sorted(places) for places in found.values())


def shingles(text):
    padded = f"  {text}  "
    return {padded[place : place + 3] for place in range(len(padded) - 2)}


def similarity(first, second):
    a, b = shingles(first), shingles(second)
    return len(a & b) / len(a | b)


def made_up_texts(seed, count):
    """Texts of letters and single spaces, in families: each next one of a family is a few letters off the last one."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghjklmnopqrstuwyz", k=rng.randint(3, 9))) for _ in range(60)]
    texts = set()
    while len(texts) < count:
        text = " ".join(rng.choices(words, k=rng.randint(12, 40)))
        for _ in range(rng.randint(1, 6)):
            texts.add(text)
            letters = list(text)
            for place in rng.sample(range(len(letters)), rng.randint(1, 4)):
                letters[place] = letters[place] if letters[place] == " " else rng.choice("abcdefgh")
            text = "".join(letters)
    return sorted(texts)


def test_groups_of_made_up_texts_against_the_true_similarities(spark):
    texts = made_up_texts(0, 400)
    rows = collapse(spark, texts)
    read = {place for place in range(len(texts)) if rows[f"item:{place}"]["representative_id"] == f"item:{place}"}
    for place, text in enumerate(texts):
        row = rows[f"item:{place}"]
        representative = int(row["representative_id"].split(":")[1])
        assert representative in read
        assert row["teacher_text"] == texts[representative]
        assert similarity(text, texts[representative]) >= THRESHOLD
    far = [pair for pair in combinations(sorted(read), 2) if similarity(texts[pair[0]], texts[pair[1]]) >= 0.93]
    near = [pair for pair in combinations(range(len(texts)), 2) if similarity(texts[pair[0]], texts[pair[1]]) >= 0.93]
    assert len(near) > 150
    assert len(far) <= 0.05 * len(near)
    assert len(read) < 0.8 * len(texts)
    assert rows == collapse(spark, texts, partitions=7)


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 0.95, 0.99])
def test_the_bands_miss_a_hundredth_of_the_pairs_at_the_threshold_at_most(threshold):
    missed = (1 - threshold ** band_width(threshold)) ** NUM_BANDS
    assert missed <= 0.01
    above = min(threshold + 0.03, 1.0)
    assert (1 - above ** band_width(threshold)) ** NUM_BANDS <= 0.005


def test_a_chain_of_small_steps_does_not_become_one_group(spark):
    """Twenty letters are replaced one after the other: neighbours are near, the ends are not."""
    rng = random.Random(4)
    text = list(" ".join("".join(rng.choices("abcdefghij", k=6)) for _ in range(14)))
    chain = ["".join(text)]
    for place in range(0, 80, 4):
        text[place] = "z"
        chain.append("".join(text))
    rows = collapse(spark, chain)
    assert similarity(chain[0], chain[1]) >= THRESHOLD > similarity(chain[0], chain[-1])
    found = groups(rows)
    assert 1 < len(found) < len(chain)
    for row in rows.values():
        assert similarity(row["text"], row["teacher_text"]) >= THRESHOLD


def test_who_is_read_is_what_a_plain_loop_over_the_texts_says(spark):
    """A random graph and a path of 30 in the order of the ranks, which is as many rounds as there can be."""
    rng = random.Random(9)
    names = [f"{place:03d}" for place in range(80)]
    pairs = {tuple(sorted(rng.sample(names[30:], 2))) for _ in range(90)} | set(pairwise(names[:30]))
    scored = [(earlier, later, rng.choice([0.9, 0.95, 1.0])) for earlier, later in sorted(pairs)]
    read = set()
    for name in names:
        if not any(earlier in read and later == name for earlier, later in pairs):
            read.add(name)
    wanted = {
        name: min((-score, earlier) for earlier, later, score in scored if later == name and earlier in read)[1]
        for name in set(names) - read
    }
    frame = spark.createDataFrame(scored, "earlier string, later string, similarity double")
    assert {row["later"]: row["earlier"] for row in _nearest_read(frame.repartition(3)).collect()} == wanted


LONG = "a film about a clever crew that robs a bank in a small town and gets away with it on a rainy day"


PAIRS = [
    ("Alien 2", "Alien 3", False),
    ("Alien", "alien!", True),
    ("Heat", "Heal", False),
    ("The Matrix", "  the\tMATRIX  ", True),
    ("C++", "C#", False),
    ("unknown", "Unknown.", True),
    ("!!!", "???", False),
    ("", "", True),
    (f"{LONG} year: 1995", f"{LONG} year: 1996", False),
    (f"{LONG} 64GB", f"{LONG} 128GB", False),
    (f"{LONG} 1.5 l", f"{LONG} 1,5 l", False),
    (f"{LONG} part II", f"{LONG} part III", False),
    (f"{LONG}, 1995", f"{LONG}. 1995", True),
    (f"{LONG} 1995", f"{LONG}s 1995", True),
    (LONG, LONG.replace("rainy", "sunny").replace("bank", "shop"), False),
    (f"{LONG} 第二季", f"{LONG} 第三季", False),
    (f"{LONG} １９９５", f"{LONG} 1995", True),
    ("一部关于兄弟情谊的电影", "一部关于兄弟情谊的电影。", True),
]
"""Two texts, and whether they say the same."""


def test_what_is_the_same_and_what_is_not(spark):
    """Each pair is a level of its own, so that it meets no other."""
    rows = [(f"{place}:{side}", str(place), pair[side]) for place, pair in enumerate(PAIRS) for side in (0, 1)]
    made = with_representatives(spark.createDataFrame(rows, COLUMNS), THRESHOLD).collect()
    read = defaultdict(set)
    for row in made:
        read[int(row["level"])].add(row["representative_id"])
    assert len(read) == len(PAIRS)
    for place, pair in enumerate(PAIRS):
        assert (len(read[place]) == 1) == pair[2], pair


def test_levels_are_never_mixed(spark):
    rows = [("item:1", "item", LONG), ("user:1", "user", LONG), ("user:2", "user", f"{LONG}s")]
    made = with_representatives(spark.createDataFrame(rows, COLUMNS), THRESHOLD)
    assert count_read(made) == {"item": {"rows": 1, "read": 1}, "user": {"rows": 2, "read": 1}}


def test_above_one_every_row_is_read_and_at_one_equal_texts_are_not(spark):
    texts = [LONG, LONG.upper(), f"{LONG}s"]
    assert groups(collapse(spark, texts, threshold=1.1)) == [[0], [1], [2]]
    assert groups(collapse(spark, texts, threshold=1.0)) == [[0, 1], [2]]
    assert groups(collapse(spark, texts, threshold=0.9)) == [[0, 1, 2]]
    with pytest.raises(ConfigError, match=r"near_duplicate = 0.3: it must be from 0.5 to 1"):
        collapse(spark, texts, threshold=0.3)


def processor_seconds():
    """Of this process and Spark's: a machine that is busy otherwise takes no more of them."""
    mine = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in (mine, *mine.children(recursive=True)))


def test_copies_and_a_catalogue_out_of_one_mould_cost_their_rows_and_not_the_square(spark):
    """20,000 copies are 2 × 10^8 pairs, and 1,500 texts that differ in one word 10^6."""
    rng = random.Random(1)
    words = ["".join(rng.choices("abcdefgh", k=6)) for _ in range(1500)]
    texts = [LONG] * 20_000 + [f"{LONG} {LONG[::-1]} {LONG} {word}" for word in words]
    started = processor_seconds()
    rows = collapse(spark, texts)
    assert processor_seconds() - started < 90
    assert len({rows[f"item:{place}"]["representative_id"] for place in range(20_000)}) == 1
    moulded = {rows[f"item:{place}"]["representative_id"] for place in range(20_000, len(texts))}
    assert len(moulded) < 0.2 * len(words)
