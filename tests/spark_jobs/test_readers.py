"""Files of every format give the same rows, in their own order, and say what is wrong with them."""

import csv
import io
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import SourceError, StageError

pytestmark = pytest.mark.spark

EVENTS = """
[events]
path = "events.csv"
"""
LETTERS = ["a", "é", '"', ",", "\n", "\t", " b", "'", "漢", "\\", ";", ""]


def items_toml(path: str, more: str = "") -> str:
    return f'[items]\npath = "{path}"\nid = "id"\ntext = ["title"]\nattributes = ["brand"]\n{more}\n{EVENTS}'


@pytest.fixture
def items(world):
    world.write("events.csv", "user_id,item_id\nu,1\n")
    return world


def rows_of(table):
    return [(row["item_id"], row["title"], dict(row["attributes"]).get("brand")) for row in table.to_pylist()]


@pytest.mark.parametrize(
    ("ending", "bom", "newline"), [("csv", False, "\n"), ("csv", True, "\r\n"), ("tsv", True, "\n")]
)
def test_delimited_files_read_as_the_csv_module_reads_them(items, ending, bom, newline):
    draw = random.Random(7)
    words = ["".join(draw.choices(LETTERS, k=6)) for _ in range(60)]
    wanted = [(f"{number:03d}", f"x{word}y", draw.choice(["", 'Acme "N"'])) for number, word in enumerate(words)]
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t" if ending == "tsv" else ",", lineterminator=newline, quoting=csv.QUOTE_ALL)
    writer.writerows([("id", "title", "brand"), *wanted])
    items.write(f"items.{ending}", ("\ufeff" if bom else "").encode() + text.getvalue().encode())
    made = items.make(items_toml(f"items.{ending}"), "items")
    assert rows_of(made["items"]) == [(key, title, brand or None) for key, title, brand in wanted]
    assert made["items_rejected"] == []


def test_every_format_gives_the_same_rows(items):
    rows = [
        {"id": str(number), "title": f"Title {number} é\nline", "brand": "x" if number else None} for number in range(5)
    ]
    wanted = [(row["id"], row["title"], row["brand"]) for row in rows]
    items.write("items.jsonl", "\n\n".join(json.dumps(row) for row in rows))
    items.write("array.json", "\ufeff" + json.dumps(rows, indent=1, ensure_ascii=False))
    items.write("keyed.json", json.dumps({row["id"]: {"title": row["title"], "brand": row["brand"]} for row in rows}))
    pq.write_table(pa.Table.from_pylist(rows), items.folder / "items.parquet")
    for place, path in enumerate(["items.jsonl", "array.json", "keyed.json", "items.parquet"]):
        toml = items_toml(path) if path != "keyed.json" else items_toml(path).replace('id = "id"', 'id = "key"')
        assert rows_of(items.make(toml, "items", work=f"w{place}")["items"]) == wanted, path


def test_faulty_rows_are_kept_with_their_reason(items):
    good = "".join(f"{number},T{number},b\n" for number in range(30))
    bad = b"a,too few\nb,T,x,too many\nc,caf\xe9,x\n,no id,x\nd,  ,x\n1,again,x\ne," + b"z" * 40_000 + b",x\n"
    items.write("items.csv", b"id,title,brand\n" + good.encode() + bad)
    made = items.make(items_toml("items.csv"), "items")
    assert sorted(row["reason"] for row in made["items_rejected"]) == [
        "no item id",
        "no text",
        "not 3 fields",
        "not 3 fields",
        "not valid UTF-8",
        "repeated item id",
        "text longer than 32768 bytes",
    ]
    assert made["items"].num_rows == 30
    assert '"line":"a,too few"' in "".join(row["source_row"] for row in made["items_rejected"])
    manifest = items.plan(items_toml("items.csv")).dataset("items").manifest
    assert (manifest["rows_in"], manifest["rows_ok"], manifest["rows_rejected"]) == (37, 30, 7)


def test_faulty_lines_of_jsonl_are_kept_with_their_reason(items):
    lines = "".join(f'{{"id": {number}, "title": "T", "brand": 1.50}}\n' for number in range(20))
    items.write("items.jsonl", lines.encode() + b'{"id": \n[1]\n{"id": "x", "title": "caf\xe9"}\n')
    made = items.make(items_toml("items.jsonl"), "items")
    assert sorted(row["reason"] for row in made["items_rejected"]) == [
        "not a JSON object",
        "not a JSON object",
        "not valid UTF-8",
    ]
    assert rows_of(made["items"])[0] == ("0", "T", "1.5")


def test_faulty_rows_of_parquet_are_kept_as_json(items):
    rows = [{"id": str(number), "title": "T", "brand": None} for number in range(20)]
    faulty = {"id": "f", "title": " ", "brand": "b"}
    pq.write_table(pa.Table.from_pylist([*rows, faulty]), items.folder / "items.parquet")
    (kept,) = items.make(items_toml("items.parquet"), "items")["items_rejected"]
    assert kept["reason"] == "no text"
    assert json.loads(kept["source_row"]) == faulty


def test_headerless_and_renamed_columns(items):
    items.write("bare.tsv", "1\tA\tx\n2\tB\ty\n")
    bare = items_toml("bare.tsv", 'columns = ["id", "title", "brand"]\nheader = false')
    assert rows_of(items.make(bare, "items")["items"]) == [("1", "A", "x"), ("2", "B", "y")]
    items.write("typed.tsv", "id:token\tname:seq\tb:token\n1\tA\tx\n")
    renamed = items_toml("typed.tsv", 'columns = ["id", "title", "brand"]\nheader = true')
    assert rows_of(items.make(renamed, "items")["items"]) == [("1", "A", "x")]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("items.csv", "id,name\n1,A\n", r"items.csv has no column 'title', 'brand'; it has id, name"),
        ("items.jsonl", '{"id": 1, "name": "A"}\n', r"items.jsonl has no column 'title', 'brand'; it has id, name"),
        ("items.csv", "", r"items.csv is empty"),
        ("items.json", "{", r"items.json is not valid JSON"),
        ("items.dat", "id\n", r"the ending '.dat' says no format"),
    ],
)
def test_wrong_files_end_in_a_sentence(items, name, content, told):
    items.write(name, content)
    with pytest.raises(SourceError, match=told):
        items.make(items_toml(name), "items")


def test_a_table_without_rows_or_with_too_many_faults_fails(items):
    items.write("items.csv", "id,title,brand\n")
    with pytest.raises(StageError, match="items would be empty"):
        items.make(items_toml("items.csv"), "items")
    items.write("items.csv", "id,title,brand\n1,A,x\n1,B,x\n")
    with pytest.raises(StageError, match=r"1 of 2 rows were rejected, more than max_rejected_share = 0.2"):
        items.make(items_toml("items.csv"), "items")


def test_a_folder_reads_like_its_files_one_after_the_other(items):
    for number, size in enumerate([40, 2, 300]):
        rows = "".join(f"{number}-{row:03d},{'t' * (row + 1)},x\n" for row in range(size))
        items.write(f"parts/{number}.csv", f"id,title,brand\n{rows}")
    items.write("parts/_SUCCESS", "")
    assert items.make(items_toml("parts"), "items")["items"].num_rows == 342
