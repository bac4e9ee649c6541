"""A sponsored-search log in which one thing decides a click: whether query and ad are about the same.

Every intent has words of its own; an ad's title shows one of them, a query another, and no word says which belong
together. A teacher who knows says it of the ads; the queries are read by nobody but the student.
"""

import json

import numpy as np

INTENTS = ("a warm winter", "a quick repair", "a quiet garden", "a first guitar", "a long journey", "a new puppy")
WORDS, FILLERS = 8, 30
ADS, QUERIES, USERS, EVENTS = 240, 300, 120, 7200
SOURCE = """
[items]
path = "ads.csv"
id = "ad_id"
[events]
path = "log.csv"
item = "ad_id"
time = "time"
label = "click"
context = ["position"]
text_context = ["query"]
[labels]
split = { by = "time", fractions = [0.7, 0.1, 0.2] }
"""
ARMS = """
[no_context]
like = "msd_frozen"
reads_context = false
"""


def write(folder, seed=3):
    """Writes ads.csv, log.csv, teacher.jsonl, source.toml and arms.toml; returns the AUC of the true probabilities."""
    random = np.random.default_rng(seed)
    made_up = iter(_made_up(random, WORDS * len(INTENTS) + FILLERS))
    words = [[next(made_up) for _ in range(WORDS)] for _ in INTENTS]
    fillers = list(made_up)
    intent_A = random.integers(len(INTENTS), size=ADS)
    word_A = [str(random.choice(words[intent])) for intent in intent_A]
    titles = [f"{word} {random.choice(fillers)} {number:03d}" for number, word in enumerate(word_A)]
    intent_Q = random.integers(len(INTENTS), size=QUERIES)
    queries = [f"{random.choice(words[intent])} {random.choice(fillers)}" for intent in intent_Q]
    (folder / "ads.csv").write_text("ad_id,title\n" + "".join(f"a{n},{title}\n" for n, title in enumerate(titles)))
    said = [
        {
            "text": title,
            "rationale": f"{word} is about {INTENTS[intent]}",
            "explicit": [title.rsplit(" ", 1)[0]],
            "implicit": [INTENTS[intent]],
        }
        for title, word, intent in zip(titles, word_A, intent_A, strict=True)
    ]
    (folder / "teacher.jsonl").write_text("".join(json.dumps(row) + "\n" for row in said))
    (folder / "source.toml").write_text(SOURCE)
    (folder / "arms.toml").write_text(ARMS)
    return _write_log(folder, random, intent_A, intent_Q, queries)


def _write_log(folder, random, intent_A, intent_Q, queries):
    query_E = random.integers(QUERIES, size=EVENTS)
    alike = [np.flatnonzero(intent_A == intent) for intent in range(len(INTENTS))]
    matching_E = np.array([random.choice(alike[intent_Q[query]]) for query in query_E])
    ad_E = np.where(random.random(EVENTS) < 0.4, matching_E, random.integers(ADS, size=EVENTS))
    chance_E = np.where(intent_A[ad_E] == intent_Q[query_E], 0.75, 0.08)
    click_E = (random.random(EVENTS) < chance_E).astype(int)
    user_E = random.integers(USERS, size=EVENTS)
    rows = [
        f"u{user},a{ad},{1_700_000_000 + 60 * number},{click},{queries[query]},{number % 3}\n"
        for number, (user, ad, click, query) in enumerate(zip(user_E, ad_E, click_E, query_E, strict=True))
    ]
    (folder / "log.csv").write_text("user_id,ad_id,time,click,query,position\n" + "".join(rows))
    last = slice(int(0.8 * EVENTS), None)
    return _auc(chance_E[last], click_E[last])


def _auc(score_N, click_N):
    """Pairs ranked right, ties half."""
    difference_PN = score_N[click_N == 1][:, None] - score_N[click_N == 0][None, :]
    return float((difference_PN > 0).mean() + 0.5 * (difference_PN == 0).mean())


def _made_up(random, count):
    onsets, vowels, codas = "bdfgklmnprstvz", "aeiou", "lnrxm"
    words = {}
    while len(words) < count:
        syllables = [random.choice(list(onsets)) + random.choice(list(vowels)) for _ in range(2)]
        words["".join(syllables).capitalize() + random.choice(list(codas))] = None
    return list(words)
