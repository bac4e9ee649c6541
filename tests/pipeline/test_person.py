"""Whose row it is: exactly the person's, not those of people whose ids begin, end or read alike."""

import json

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline import schemas
from pipeline.person import Person, key_columns
from pipeline.residue import search

IDS = st.text(st.sampled_from(list("u1@0.*(\\\"' é用,:-")), min_size=1, max_size=5).filter(lambda text: text.strip(" "))


def batch(rows, schema=None):
    return pa.RecordBatch.from_pylist(rows, schema=schema)


@given(st.lists(IDS, min_size=1, max_size=6), st.integers(-5, 10**9))
def test_prompts_of_a_person_are_theirs_and_nobody_elses(ids, seconds):
    person = Person(ids[0])
    rows = [{"prompt_id": f"user:{each}@{seconds}", "user": each} for each in ids]
    rows += [{"prompt_id": f"item:{each}", "user": None} for each in ids]
    assert person.mask(batch(rows)).to_pylist() == [row["user"] == ids[0] for row in rows]


@given(st.lists(IDS, min_size=2, max_size=6))
def test_rejected_rows_are_judged_by_whole_values(ids):
    person = Person(ids[0].strip(" "))
    rows = [{"source_row": json.dumps({"a": each, "b": f"{each}x"}), "reason": "r"} for each in ids]
    rows += [{"source_row": json.dumps({"deep": [{"x": each}]}, ensure_ascii=False), "reason": "r"} for each in ids]
    wanted = [each.strip(" ") == person.user_id for each in [*ids, *ids]]
    assert person.mask(batch(rows)).to_pylist() == wanted


def test_lines_that_were_no_rows_are_judged_by_words():
    rows = [{"source_row": json.dumps({"line": line}), "reason": "r"} for line in ("u1,x", "u10,x", "a;u1;b", "xu1")]
    rows.append({"source_row": "no json u1", "reason": "r"})
    assert Person("u1").mask(batch(rows)).to_pylist() == [True, False, True, False, True]


def test_every_table_that_names_users_is_known_and_tables_of_items_are_nobodys():
    named = {name for name, schema in vars(schemas).items() if isinstance(schema, pa.Schema) and key_columns(schema)}
    tables = {name for name, schema in vars(schemas).items() if isinstance(schema, pa.Schema)}
    assert tables - named == {"ITEMS", "ITEM_STATS", "ITEM_VECTORS"}
    assert Person("13").mask(pa.RecordBatch.from_pylist([{"item_id": "13", "text": "13"}])) is None


def test_an_item_of_the_same_id_is_not_the_person():
    rows = [{"level": level, "entity_id": "13"} for level in ("item", "user")]
    assert Person("13").mask(batch(rows)).to_pylist() == [False, True]


def test_the_last_search_finds_words_in_every_kind_of_file_and_no_longer_ids(tmp_path):
    import pyarrow.parquet as pq

    person = Person('ann"1é')
    nested = pa.table(
        {
            "lists": [["x", 'ann"1é'], []],
            "maps": pa.array([[("k", json.dumps({"v": 'ann"1é'}))], []], pa.map_(pa.string(), pa.string())),
            "item_id": ['ann"1é', ""],
            "structs": [{"a": {"b": 'of ann"1é.'}}, {"a": {"b": 'ann"1é_2'}}],
        }
    )
    pq.write_table(nested, tmp_path / "nested.parquet")
    (tmp_path / "plain.log").write_text('x ann"1é y ann"1é2')
    (tmp_path / "escaped.json").write_text(json.dumps({"id": 'ann"1é'}))
    (tmp_path / "block.bin").write_bytes(b"." * (2**24 - 3) + 'ann"1é'.encode() + b"." * 10)
    (tmp_path / "clean.txt").write_text("ann 1é")
    (tmp_path / "longer.bin").write_bytes(b"." * (2**24 - 7) + 'ann"1é2'.encode() + b"." * 10)
    found = {path.name: hits for path, hits in search(tmp_path, person)}
    assert found == {"nested.parquet": 3, "plain.log": 1, "escaped.json": 1, "block.bin": 1}


def test_short_ids_are_looked_for_as_whole_json_texts_only(tmp_path):
    (tmp_path / "numbers.json").write_text('{"rows": 13, "seconds": 1.13}')
    (tmp_path / "ids.json").write_text('{"removed": ["13"]}')
    (tmp_path / "file.txt").write_text("13")
    assert [path.name for path, _ in search(tmp_path, Person("13"))] == ["ids.json"]
