"""Sources: a wrong document is a sentence, whatever is wrong with it."""

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import SourceError
from pipeline.source import SplitBy, built_in_sources, load_source, parse_source

GOOD = """
[items]
path = "items.csv"
text = ["title", "description"]
category = "genre"
[events]
path = { train = "train.csv", test = ["a.csv", "b.csv"] }
label = { column = "rating", positive = ">= 4" }
time = "when"
[labels]
split = { by = "user", fractions = [0.5, 0.25, 0.25] }
min_history = 3
negatives = { per_positive = 2, by = "uniform" }
[histories]
events = "all"
max_length = 7
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the files that GOOD names."""
    path = tmp_path_factory.mktemp("source")
    for name in ("items", "train", "a", "b"):
        (path / f"{name}.csv").write_text("item_id\n")
    return path


def test_a_whole_document(folder):
    source = parse_source("mine", GOOD, folder)
    assert source.items.text == ("title", "description")
    assert (source.events.label.operator, source.events.label.threshold) == (">=", 4.0)
    assert list(source.events.files.paths) == ["train", "test"]
    assert [path.name for path in source.all_paths()] == ["items.csv", "train.csv", "a.csv", "b.csv"]
    assert source.labels.split_by is SplitBy.USER
    assert source.labels.fractions == (0.5, 0.25, 0.25)
    assert (source.labels.negatives_per_positive, source.histories.max_length) == (2, 7)
    assert source.users is None


def changed(old, new):
    assert old in GOOD
    return GOOD.replace(old, new)


WRONG = {
    "no items": (changed("[items]", "[itms]"), r"no key 'itms'; did you mean 'items'"),
    "no events": ("[items]\npath = 'items.csv'", r"the table \[events\] is missing"),
    "events no table": ("events = 3\n[items]\npath = 'items.csv'", r"events must be a table"),
    "labels no table": ("labels = 3\n" + GOOD.split("[labels]")[0], r"labels must be a table"),
    "not TOML": ("[items", r"mine: not valid TOML"),
    "no path": (changed('path = "items.csv"', ""), r"\[items\] has no path"),
    "no file": (changed("items.csv", "itms.csv"), r"path itms.csv does not exist"),
    "empty path": (changed('"items.csv"', "[]"), r"path must be a text"),
    "path of numbers": (changed('"items.csv"', "[1]"), r"path must be a text"),
    "path with NUL": (changed('"items.csv"', '"a\\u0000b"'), r"path must be a text"),
    "path table empty": (changed('{ train = "train.csv", test = ["a.csv", "b.csv"] }', "{}"), r"names no file"),
    "unknown split": (changed("{ train", "{ tran"), r"names the split 'tran'"),
    "unknown key": (changed("category", "categry"), r"\[items\] has no key 'categry'; did you mean 'category'"),
    "column a number": (changed('"genre"', "5"), r"\[items\] category must be a text, not 5"),
    "text a number": (changed('["title", "description"]', "5"), r"text must be a column name or a list of them"),
    "text of numbers": (changed('"title", ', "1, "), r"text must be a column name or a list of them"),
    "label a number": (changed('{ column = "rating", positive = ">= 4" }', "5"), r"label must be a column or"),
    "condition": (changed(">= 4", "about 4"), r"positive must be like '>= 4', not 'about 4'"),
    "label column a number": (changed('"rating"', "5"), r"label column must be a text"),
    "split a word": (changed('{ by = "user", fractions = [0.5, 0.25, 0.25] }', '"time"'), r"split must be a table"),
    "split by": (changed('"user"', '"usr"'), r"split by must be one of time, user, given, not 'usr'"),
    "two shares": (changed("0.5, 0.25, 0.25", "0.5, 0.5"), r"three shares that add up to 1"),
    "shares of words": (changed("0.5, 0.25, 0.25", "'a', 'b', 'c'"), r"three shares that add up to 1"),
    "negative share": (changed("0.5, 0.25, 0.25", "1.5, -0.25, -0.25"), r"three shares that add up to 1"),
    "history a word": (changed("min_history = 3", "min_history = 'x'"), r"min_history must be a whole number"),
    "history below zero": (changed("min_history = 3", "min_history = -3"), r"min_history must not be negative"),
    "negatives by": (changed('"uniform"', '"magic"'), r"negatives by must be popularity or uniform"),
    "negatives a number": (changed('{ per_positive = 2, by = "uniform" }', "2"), r"negatives must be a table"),
    "events": (changed('"all"', '"some"'), r'events must be "positive" or "all", not \'some\''),
    "length": (changed("max_length = 7", "max_length = 0"), r"max_length must be a whole number from 1 on"),
    "length a truth": (changed("max_length = 7", "max_length = true"), r"max_length must be a whole number"),
    "header a word": (changed('category = "genre"', 'header = "no"'), r"header must be true or false"),
    "format": (changed('category = "genre"', 'format = "xlsx"'), r"format must be one of auto, csv"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_document_says_what_was_found_and_wanted(case, folder):
    text, message = WRONG[case]
    with pytest.raises(SourceError, match=message):
        parse_source("mine", text, folder)


SCALARS = st.one_of(st.text(max_size=6), st.integers(-5, 5), st.booleans(), st.floats(-2, 2))
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["by", "column", "positive", "train", "fractions"]), inner, max_size=2)
    ),
    max_leaves=4,
)
KEYS = st.sampled_from(
    ["path", "id", "text", "time", "label", "split", "columns", "header", "separator", "format", "min_history",
     "negatives", "events", "max_length", "attributes", "deduplicate"]
)  # fmt: skip
TABLES = st.sampled_from(["items", "events", "users", "labels", "histories"])


def inline(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {inline(inner)}" for key, inner in value.items()) + "}"
    return "[" + ", ".join(map(inline, value)) + "]" if isinstance(value, list) else json.dumps(value)


@settings(max_examples=300)
@given(st.dictionaries(TABLES, st.dictionaries(KEYS, VALUES, max_size=3) | VALUES, max_size=3))
def test_any_document_parses_or_is_a_source_error(folder, document):
    whole = {"items": {"path": "items.csv"}, "events": {"path": "a.csv"}}
    for table, content in document.items():
        is_mergeable = isinstance(content, dict) and table in whole
        whole[table] = {**whole[table], **content} if is_mergeable else content
    text = "\n".join(f"{table} = {inline(content)}" for table, content in whole.items())
    with suppress(SourceError):
        parse_source("mine", text, folder)


def test_an_unknown_name_lists_the_built_in_ones():
    with pytest.raises(SourceError, match=r"neither a file nor a built-in name \(.*movielens-100k"):
        load_source("movielens-200k")


@pytest.mark.parametrize("name", ["mind", "kdd-cup-2012"])
def test_a_built_in_format_asks_for_its_folder(name):
    assert name in built_in_sources()
    with pytest.raises(SourceError, match=f"write --source {name}:FOLDER"):
        load_source(name)
    with pytest.raises(SourceError, match="does not exist"):
        load_source(f"{name}:no/such/folder")


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SourceError, match=r"mine\.toml is not UTF-8"):
        load_source(str(tmp_path / "mine.toml"))


def test_paths_are_taken_from_the_documents_folder(folder, monkeypatch, tmp_path):
    (folder / "mine.toml").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    assert load_source(str(folder / "mine.toml")).items.files.all_paths == (folder / "items.csv",)
