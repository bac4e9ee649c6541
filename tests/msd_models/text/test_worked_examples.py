"""Templates and worked examples: which a row gets, and what is wrong with a user's own."""

import numpy as np
import pytest

from msd_models.teacher_prompt import Templates, language_of
from msd_models.worked_examples import LEVELS, Examples, read_references
from pipeline.errors import ConfigError
from pipeline.packaged import packaged

ENTRY = """
[[reference]]
id = "{id}"
level = "{level}"
strata = ["{stratum}"]
text = "{text}"
rationale = "because"
explicit = ["a"]
implicit = ["b"]
"""


def row(text, stratum="other", level="item"):
    return {"level": level, "stratum": stratum, "teacher_text": text}


def chosen(rows, num_chosen=1, references=None, language="en"):
    def encode(texts):
        """Texts are near that share their first letter."""
        vectors = np.zeros((len(texts), 128), dtype=np.float32)
        for number, text in enumerate(texts):
            vectors[number, ord(text[0].lower()) % 128] = 1
        return vectors

    examples = Examples(references or read_references(""), num_chosen, encode)
    return [[one.id for one in references] for references in examples.choose(rows, [language] * len(rows))]


@pytest.fixture
def write(tmp_path):
    def _write(*entries):
        path = tmp_path / "mine.toml"
        filled = [
            {"stratum": "s", "text": f"text {n}", "id": str(n), "level": "item"} | e for n, e in enumerate(entries)
        ]
        path.write_text("".join(ENTRY.format(**entry) for entry in filled), encoding="utf-8")
        return str(path)

    return _write


def test_same_category_first_then_the_nearest(write):
    path = write(
        {"stratum": "tools", "text": "Zinc hammer"},
        {"stratum": "books", "text": "Apple pie recipes"},
        {"stratum": "books", "text": "Banana bread"},
        {"level": "user", "text": "history"},
    )
    references = read_references(path)
    assert chosen([row("Big saw", "Tools"), row("Big book", "books")], 1, references) == [["0"], ["2"]]
    assert chosen([row("Big saw", "Tools")], 2, references) == [["2", "0"]]
    assert chosen([row("Zoo", "none")], 3, references) == [["2", "1", "0"]]
    assert chosen([row("Zoo", "none")], 9, references) == [["2", "1", "0"]]
    assert chosen([row("Zoo", "none")], 0, references) == [[]]


def test_the_row_itself_and_its_like_are_never_shown(write):
    references = read_references(write({"text": "Red kite for windy days"}, {"level": "user", "text": "u"}))
    assert chosen([row("Red kite for windy days", "s"), row("red kite, for windy  DAYS!", "s")], 1, references) == [
        [],
        [],
    ]
    assert chosen([row("Red boat for rainy days", "s")], 1, references) == [["0"]]


def test_no_shipped_example_answers_its_own_text():
    for reference in read_references(""):
        own = row(reference.text, (*reference.strata, "")[0], reference.level)
        assert reference.id not in chosen([own], 5, language=reference.language)[0]


def test_examples_speak_the_prompt_s_language_where_they_can():
    spoken = {reference.id: reference.language for reference in read_references("")}
    assert [spoken[one] for one in chosen([row("草莓雪糕", "食品")], 2, language="zh")[0]] == ["zh", "zh"]
    assert spoken[chosen([row("Strawberry ice", "food")])[0][0]] == "en"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Toy Story", "en"),
        ("", "en"),
        ("草莓味酸奶雪糕 6支装", "zh"),
        ("iPhone 手机壳 透明 保护套", "zh"),
        ("Kung fu 功夫 (the film everyone knows)", "en"),
    ],
)
def test_language(text, language):
    assert language_of(text, "auto") == language
    assert language_of(text, "zh") == "zh"


def test_every_level_and_language_has_a_template_with_its_digest(tmp_path):
    templates = Templates("key-phrases")
    ids = {templates.id_of(level, language) for level in LEVELS for language in ("en", "zh")}
    assert len(ids) == 4
    for path in packaged("msd_models/templates/key-phrases").iterdir():
        (tmp_path / path.name).write_text(path.read_text().replace("phrases", "words").replace("短语", "词"))
    changed = Templates(str(tmp_path))
    assert not ids & {changed.id_of(level, language) for level in LEVELS for language in ("en", "zh")}
    assert "words" in changed.prompt("item", "en", "x", []).question


def test_a_template_says_nothing_but_its_words_and_the_text():
    prompt = Templates("key-phrases").prompt("item", "en", "{{ 7 * 7 }}", read_references("")[:1])
    assert "{{ 7 * 7 }}" in prompt.question
    assert [turn["role"] for turn in prompt.messages] == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ text", "is not a Jinja template"),
        ("no text", "wanted {{ text }}"),
        ("{{ text }} {{ user }}", "and no other"),
    ],
)
def test_a_template_that_cannot_be_used_is_named(tmp_path, source, words):
    (tmp_path / "item.en.jinja").write_text(source)
    with pytest.raises(ConfigError, match=words):
        Templates(str(tmp_path)).id_of("item", "en")
    with pytest.raises(ConfigError, match=r"has no user\.en\.jinja"):
        Templates(str(tmp_path)).id_of("user", "en")


def test_references_that_cannot_be_used_are_named(write, tmp_path):
    cases = {
        "has no reference of level user": write({}),
        "same id": None,
        "reference 1 has no usable level": None,
    }
    with pytest.raises(ConfigError, match="has no reference of level user"):
        read_references(cases["has no reference of level user"])
    with pytest.raises(ConfigError, match="same id"):
        read_references(write({"id": "x"}, {"id": "x", "level": "user"}))
    with pytest.raises(ConfigError, match="reference 1 has no usable level"):
        read_references(write({"level": "shop"}))
    with pytest.raises(ConfigError, match="reference 2 has no usable text"):
        read_references(write({}, {"level": "user", "text": " "}))
    (tmp_path / "bad.toml").write_text("[[reference]\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_references(str(tmp_path / "bad.toml"))
