"""Gold phrases by hand: exported, labelled, imported and compared; every slip is named by its line."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msd_models.agreement import agree, compare
from msd_models.annotation import LABELS, export, import_
from msd_models.gold import gold_for, match_gold, read_gold
from pipeline.config import Student
from pipeline.errors import SourceError, StageError, UsageError
from pipeline.storage import Workspace


@pytest.fixture
def unmade(tmp_path):
    return Workspace(tmp_path / "work").dataset("student", "0" * 16, None)


@pytest.fixture
def exported(teacher_outputs, unmade, tmp_path):
    path = tmp_path / "todo.jsonl"
    export(teacher_outputs, unmade, path, rows=6, seed=0)
    return path


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def labelled(rows, label):
    """The rows with a label on every candidate."""
    return [{**row, "candidates": [{**candidate, "label": label} for candidate in row["candidates"]]} for row in rows]


def test_export_shows_usable_rows_and_hides_who_spoke(exported, teacher_rows):
    rows = read(exported)
    said = {row["prompt_id"]: {*row["explicit_phrases"], *row["implicit_phrases"]} for row in teacher_rows}
    assert len(rows) == 6
    for row in rows:
        assert row.keys() == {"id", "level", "text", "candidates", "added"}
        assert {candidate["phrase"] for candidate in row["candidates"]} == said[row["id"]]
        assert all(candidate.keys() == {"phrase", "label"} for candidate in row["candidates"])
    assert not {row["id"] for row in rows} & {r["prompt_id"] for r in teacher_rows if r["status"] == "rejected"}


def test_a_larger_export_holds_the_smaller_ones_rows(exported, teacher_outputs, unmade, tmp_path):
    export(teacher_outputs, unmade, tmp_path / "more.jsonl", rows=12, seed=0)
    assert read(tmp_path / "more.jsonl")[:6] == read(exported)
    export(teacher_outputs, unmade, tmp_path / "other.jsonl", rows=6, seed=1)
    assert {row["id"] for row in read(tmp_path / "other.jsonl")} != {row["id"] for row in read(exported)}


def test_work_by_hand_is_never_overwritten(exported, teacher_outputs, unmade, tmp_path):
    with pytest.raises(UsageError, match=r"todo\.jsonl exists"):
        export(teacher_outputs, unmade, exported, rows=6, seed=0)
    with pytest.raises(UsageError, match="exists"):
        import_([exported], exported)
    with pytest.raises(StageError, match="msd run teacher_outputs"):
        export(unmade, unmade, tmp_path / "new.jsonl", rows=6, seed=0)


def test_labels_become_gold_phrases(exported, tmp_path):
    first, second, third, *rest = read(exported)
    third["added"]["implicit"] = ["a thought of my own"]
    rows = [*labelled([first], "explicit"), *labelled([second], "wrong"), *labelled([third], "implicit"), *rest]
    import_([write(exported, rows)], tmp_path / "gold.jsonl")
    gold = read_gold(tmp_path / "gold.jsonl")
    assert [row.text for row in gold] == [first["text"], second["text"], third["text"]]
    assert set(gold[0].explicit) == {candidate["phrase"] for candidate in first["candidates"]}
    assert gold[1].phrases == ([], [])
    assert gold[2].implicit[-1] == "a thought of my own"


def spoil(rows, change):
    change(rows[1])
    return rows


SLIPS = {
    "no label": (lambda row: row["candidates"][0].update(label=None), "no label for"),
    "unknown label": (lambda row: row["candidates"][0].update(label="true"), "wanted explicit, implicit, wrong"),
    "no phrase": (lambda row: row["candidates"].append({"label": "wrong"}), "phrase and a label"),
    "other level": (lambda row: row.update(level="film"), "level is 'film'"),
    "added no list": (lambda row: row["added"].update(explicit="one"), "must be a list of phrases"),
    "both lists": (
        lambda row: row["added"].update(explicit=[row["candidates"][0]["phrase"].upper()]),
        "cannot be both",
    ),
    "no id": (lambda row: row.pop("id"), "id must be of type str"),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_named_by_file_and_line(exported, tmp_path, slip):
    change, message = SLIPS[slip]
    rows = labelled(read(exported), "implicit")
    with pytest.raises(SourceError, match=rf"todo\.jsonl:2: .*{message}"):
        import_([write(exported, spoil(rows, change))], tmp_path / "gold.jsonl")
    assert not (tmp_path / "gold.jsonl").exists()


def test_two_answers_to_one_text_and_no_answer_at_all_are_refused(exported, tmp_path):
    with pytest.raises(SourceError, match="no row is labelled yet"):
        import_([exported], tmp_path / "gold.jsonl")
    rows = labelled(read(exported), "wrong")
    other = write(tmp_path / "other.jsonl", rows[:1])
    with pytest.raises(SourceError, match=r"other\.jsonl:1: .* stands in todo\.jsonl:1 already"):
        import_([write(exported, rows), other], tmp_path / "gold.jsonl")


def test_broken_json_names_the_line(tmp_path):
    path = tmp_path / "gold.jsonl"
    path.write_text('{"text": "a", "level": "item", "explicit": [], "implicit": []}\n\n{"text": \n')
    with pytest.raises(SourceError, match=r"gold\.jsonl:3: not valid JSON"):
        read_gold(path)


def test_shipped_gold_belongs_to_its_source_and_is_found_by_title():
    gold = gold_for(Student(), "movielens-100k")
    assert len(gold) == 40
    assert gold_for(Student(), "another") == gold_for(Student(), None) == []
    assert all(row.explicit and row.implicit and "\n" not in row.text for row in gold)
    rows = [{"level": "item", "text": f"{gold[0].text.upper()}\nyear: 1995"}, {"level": "user", "text": gold[0].text}]
    assert match_gold(rows, gold) == [(rows[0], gold[0])]
    assert match_gold(rows, [*gold, gold[0]]) == []


LABELLED = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=30)


@settings(deadline=None)
@given(LABELLED)
def test_kappa_is_what_the_confusion_table_says(pairs):
    first, second = zip(*pairs, strict=True)
    found = compare(first, second, [str(number % 4) for number in range(len(pairs))])
    table = np.array(found.confusion)
    chance = float(table.sum(axis=0) @ table.sum(axis=1)) / table.sum() ** 2
    assert table.sum() == found.candidates == len(pairs)
    assert found.observed == pytest.approx(np.trace(table) / table.sum())
    assert found.kappa == (None if chance == 1 else pytest.approx((found.observed - chance) / (1 - chance)))
    mirrored = compare(second, first, ["0"] * len(pairs))
    assert mirrored.kappa == pytest.approx(found.kappa)
    assert mirrored.interval is None


def test_annotators_are_compared_on_what_both_labelled(exported, tmp_path):
    rows = read(exported)
    ours = write(tmp_path / "a.jsonl", [*labelled(rows[:3], "explicit"), *labelled(rows[3:5], "wrong")])
    theirs = write(tmp_path / "b.jsonl", [*labelled(rows[:2], "explicit"), *labelled(rows[2:], "wrong")])
    found = agree(ours, theirs)
    assert found.rows == 5
    assert found.kappa == pytest.approx(8 / 13)
    assert found.interval[0] <= found.kappa <= found.interval[1]
    assert "Cohen's kappa 0.615" in found.lines()[0]
    with pytest.raises(SourceError, match="share no labelled candidate"):
        agree(ours, write(tmp_path / "c.jsonl", rows))
