"""The generated pages say what the code says."""

from pathlib import Path

from pipeline import reference
from pipeline.stages import BY_NAME, STAGES

DOCS = Path(__file__).parents[2] / "docs"


def test_golden_pages_are_up_to_date():
    assert (DOCS / "datasets.md").read_text() == reference.datasets_page(), "run: make docs"
    assert (DOCS / "settings.md").read_text() == reference.settings_page(), "run: make docs"


def test_every_setting_and_column_has_its_sentence():
    for stage in STAGES:
        assert all(len(text) > 5 for text in reference.setting_docs(stage.config).values())
        for field in stage.schema or []:
            assert len(field.metadata[b"doc"]) > 5, f"{stage.name}.{field.name}"


def test_a_stage_names_only_inputs_above_it():
    seen: set[str] = set()
    for stage in STAGES:
        assert set(stage.inputs) <= seen, stage.name
        seen.add(stage.name)
    assert seen == BY_NAME.keys()
