"""A person's rows in files of every format: they go, and every other row keeps its bytes."""

import csv
import io
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.errors import SourceError
from pipeline.person import Person
from pipeline.raw_erasure import count_rows, raw_files, take_out
from pipeline.source import parse_source

SOURCE = '[items]\npath = "items.csv"\n[events]\npath = "{path}"\n{more}\n'
IDS = ("u1", "u10", 'O"Neil, ', "ü|\t", "a\nb", "1", "u", " ")
CELLS = st.text(st.sampled_from(list("ua1 ,;\t\"'\n\r|é🍦{}[]:\\")), max_size=6)
ROWS = st.lists(st.tuples(CELLS, st.sampled_from(IDS), CELLS), max_size=12)


def files_of(folder, name, more=""):
    (folder / "items.csv").write_text("item_id,title\ni,t\n")
    return raw_files(parse_source("world", SOURCE.format(path=name, more=more), folder))


def erased(folder, name, content, user_id, more=""):
    """The file after the erasure and how many rows went."""
    (folder / name).write_bytes(content)
    (file,) = files_of(folder, name, more)
    person = Person(user_id)
    rows = count_rows(file, person)
    take_out(file, person)
    assert count_rows(file, person) == 0
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
    return (folder / name).read_bytes(), rows


def as_csv(rows, separator, line_end, quoting):
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=separator, lineterminator=line_end, quoting=quoting).writerows(rows)
    return out.getvalue().encode()


@settings(max_examples=150)
@given(
    ROWS,
    st.sampled_from(IDS),
    st.sampled_from([",", "\t", "|"]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
@example([("", 'O"Neil, ', '"'), ("x\n", "u1", "\r")], "u1", ",", "\r\n", csv.QUOTE_MINIMAL)
def test_delimited_files_lose_the_persons_records_and_not_a_byte_more(rows, user_id, separator, line_end, quoting):
    header = [("before", "user_id", "after")]
    wanted = [row for row in rows if row[1].strip(" ") != user_id.strip(" ")]
    with tempfile.TemporaryDirectory() as folder:
        more = f"separator = {json.dumps(separator)}"
        content = as_csv(header + rows, separator, line_end, quoting)
        left, gone = erased(Path(folder), "events.csv", content, user_id.strip(" "), more)
    assert left == as_csv(header + wanted, separator, line_end, quoting)
    assert gone == len(rows) - len(wanted)


@settings(max_examples=100)
@given(ROWS, st.sampled_from(IDS), st.booleans())
def test_json_lines_lose_the_persons_lines_and_not_a_byte_more(rows, user_id, ensure_ascii):
    def lines(some):
        dumped = [json.dumps({"x": a, "user_id": u, "y": [c]}, ensure_ascii=ensure_ascii) for a, u, c in some]
        return "".join(f"{line}\r\n" for line in dumped).encode()

    with tempfile.TemporaryDirectory() as folder:
        left, _ = erased(Path(folder), "events.jsonl", lines(rows), user_id.strip(" "))
    assert left == lines([row for row in rows if row[1].strip(" ") != user_id.strip(" ")])


@settings(max_examples=100)
@given(ROWS, st.sampled_from(IDS), st.sampled_from([None, 1]), st.booleans())
def test_a_json_array_keeps_the_others_as_they_are_written(rows, user_id, indent, ensure_ascii):
    objects = [{"x": a, "user_id": u, "y": {"z": c, "n": 1.50}} for a, u, c in rows]
    content = json.dumps(objects, indent=indent, ensure_ascii=ensure_ascii).encode()
    others = [each for each in objects if each["user_id"].strip(" ") != user_id.strip(" ")]
    with tempfile.TemporaryDirectory() as folder:
        left, gone = erased(Path(folder), "events.json", content, user_id.strip(" "))
    assert json.loads(left) == others
    assert gone == len(objects) - len(others)
    if others:
        assert left == json.dumps(others, indent=indent, ensure_ascii=ensure_ascii).encode()


def test_an_object_of_objects_is_known_by_its_keys(tmp_path):
    content = b'{ "u1": {"a": 1},\n  "u10": {"a": 2} , "u2":{}}\n'
    left, gone = erased(tmp_path, "events.json", content, "u10", 'user = "key"')
    assert (left, gone) == (b'{ "u1": {"a": 1} , "u2":{}}\n', 1)
    assert erased(tmp_path, "events.json", content, "u1", 'user = "key"')[0] == b'{ "u10": {"a": 2} , "u2":{}}\n'


def test_numbers_are_ids_as_the_readers_see_them(tmp_path):
    content = b'{"user_id": 13, "x": 1}\n{"user_id": 130}\n{"user_id": 13.0}\nnot json 13\nnot json 130\n\n'
    left, gone = erased(tmp_path, "events.jsonl", content, "13")
    assert left == b'{"user_id": 130}\n{"user_id": 13.0}\nnot json 130\n\n'
    assert gone == 2


def test_lines_that_cannot_be_read_go_by_their_fields_and_an_open_quote_takes_nobody_else_along(tmp_path):
    content = b'\xef\xbb\xbfuser_id,item_id\nu1,i1\nu1\nu10,i,extra\nx,u1,extra\nu2,"open\nu1,i2\nu3,i3\n'
    left, gone = erased(tmp_path, "events.csv", content, "u1")
    assert left == b'\xef\xbb\xbfuser_id,item_id\nu10,i,extra\nu2,"open\nu1,i2\nu3,i3\n'
    assert gone == 3


def test_a_folder_of_headerless_files_is_searched_whole(tmp_path):
    for name, content in (("a.csv", "i1,u1\ni2,u2"), ("b.csv", "i1,u2\n"), ("_hidden.csv", "i1,u1\n")):
        (tmp_path / "log").mkdir(exist_ok=True)
        (tmp_path / "log" / name).write_text(content)
    person, files = Person("u1"), files_of(tmp_path, "log", 'columns = ["item_id", "user_id"]')
    untouched = (tmp_path / "log" / "b.csv").stat().st_mtime_ns
    assert [(file.path.name, count_rows(file, person)) for file in files] == [("a.csv", 1), ("b.csv", 0)]
    take_out(files[0], person)
    assert (tmp_path / "log" / "a.csv").read_text() == "i2,u2"
    assert (tmp_path / "log" / "b.csv").stat().st_mtime_ns == untouched


@pytest.mark.parametrize("kind", [pa.string(), pa.int64(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_keeps_schema_codecs_and_the_order_of_the_others(tmp_path, kind):
    users = pa.array(["1", "10", "1", None, "2"] * 4)
    users = users.cast(pa.int64()) if kind == pa.int64() else users.cast(kind)
    table = pa.table({"user_id": users, "tags": [["a"], [], None, ["b", "c"], ["1"]] * 4, "row": range(20)})
    table = table.replace_schema_metadata({"kept": "yes"})
    pq.write_table(table, tmp_path / "events.parquet", row_group_size=7, compression={"user_id": "gzip", "row": "none"})
    before = pq.read_schema(tmp_path / "events.parquet")
    (file,) = files_of(tmp_path, "events.parquet")
    assert count_rows(file, Person("1")) == 8
    take_out(file, Person("1"))
    left = pq.read_table(tmp_path / "events.parquet")
    assert left.schema.equals(before, check_metadata=True)
    assert left["row"].to_pylist() == [row for row in range(20) if row % 5 not in (0, 2)]
    group = pq.read_metadata(tmp_path / "events.parquet").row_group(0)
    codecs = {group.column(n).path_in_schema: group.column(n).compression for n in range(3)}
    assert (codecs["user_id"], codecs["row"]) == ("GZIP", "UNCOMPRESSED")


def test_published_formats_are_cut_line_by_line(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "dev").mkdir()
    (tmp_path / "train" / "behaviors.tsv").write_bytes(
        b'1\tU1\tt\tN1 N2\tN3-1\n2\tU10\tt\t"N1\tN3-0\r\n3\tU1\tt\t\tN3-0\n'
    )
    (tmp_path / "dev" / "behaviors.tsv").write_bytes(b"4\tU2\tt\t\tN3-1\n")
    files = files_of(tmp_path, ".", 'format = "mind"')
    assert [count_rows(file, Person("U1")) for file in files] == [2, 0]
    take_out(files[0], Person("U1"))
    assert (tmp_path / "train" / "behaviors.tsv").read_bytes() == b'2\tU10\tt\t"N1\tN3-0\r\n'


def test_a_broken_json_document_is_said_and_left_alone(tmp_path):
    (tmp_path / "events.json").write_text('[{"user_id": "u1"}, {')
    (file,) = files_of(tmp_path, "events.json")
    with pytest.raises(SourceError, match="not valid JSON"):
        count_rows(file, Person("u1"))
    assert (tmp_path / "events.json").read_text() == '[{"user_id": "u1"}, {'


def test_a_link_is_followed_so_that_the_file_it_names_is_cut(tmp_path):
    (tmp_path / "real.csv").write_text("user_id,item_id\nu1,i1\nu2,i2\n")
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "events.csv").symlink_to(tmp_path / "real.csv")
    (tmp_path / "real.csv").chmod(0o640)
    (file,) = files_of(tmp_path, "log")
    take_out(file, Person("u1"))
    assert (tmp_path / "real.csv").read_text() == "user_id,item_id\nu2,i2\n"
    assert (tmp_path / "log" / "events.csv").is_symlink()
    assert (tmp_path / "real.csv").stat().st_mode & 0o777 == 0o640
