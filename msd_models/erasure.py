"""Under which keys the content store may hold what the teacher said of some prompts: every attempt of each."""

from collections.abc import Mapping, Sequence
from typing import Any

from msd_models.generators import make_generator
from msd_models.questions import Questioner
from pipeline.config import TeacherOutputs


def completion_keys(rows: Sequence[Mapping[str, Any]], config: TeacherOutputs) -> list[str]:
    """Content keys of all attempts at rows of prompts; loads a tokenizer and no model.

    Args:
        rows: of prompts, with prompt_id, level, entity_id, stratum and teacher_text.
        config: the generator and templates that the rows were, or would be, asked with.

    Raises:
        MsdError: the settings name a model or a file that is not there.
    """
    generator = make_generator(config)
    try:
        return [key for question in Questioner(config, generator).ask(rows) for key in question.keys]
    finally:
        generator.close()
