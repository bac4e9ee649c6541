"""Teacher outputs from prompts: a large model names what a text says and what it implies (docs/methods.md).

Row-wise: one batch of prompts in, one batch of outputs out. A row the teacher fails on is kept, with its reason.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from msd_models.generators import Completion, Generator, make_generator
from msd_models.phrases import clean_phrases
from msd_models.teacher_prompt import Reference, choose_reference, make_prompt, references
from pipeline.config import TeacherOutputs
from pipeline.schemas import TEACHER_OUTPUTS


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A completion understood; reason is None where it can be used."""

    rationale: str = ""
    explicit: tuple[str, ...] = ()
    implicit: tuple[str, ...] = ()
    reason: str | None = None


def teach(batches: Iterator[pa.RecordBatch], config: TeacherOutputs) -> Iterator[pa.RecordBatch]:
    """One output row per prompt row, in order; the model is loaded when the first batch comes, once.

    Args:
        batches: of prompts.
        config: the generator, its model and limits.

    Raises:
        ConfigError: a model or script that does not exist.
        MissingExtra: vllm is not installed.
        ServiceError: the model cannot be run.
    """
    generator: Generator | None = None
    try:
        for batch in batches:
            generator = generator or make_generator(config)
            yield _teach_batch(batch.to_pylist(), generator, config)
    finally:
        if generator is not None:
            generator.close()


def parse_answer(completion: Completion, text: str, copied: Collection[str] = ()) -> Answer:
    """What a completion says, or why it cannot be used: empty, truncated, unparsable or no phrases.

    Args:
        completion: of the generator.
        text: what the teacher was asked about; a phrase that stands in it is explicit, whichever list it came in, and
            one that shares no word with it is implicit.
        copied: phrases of the worked example; those that do not stand in the text are left out as parroted.
    """
    if not completion.text.strip():
        return Answer(reason="empty completion")
    found = _json_object(completion.text)
    if found is None:
        return Answer(reason="unparsable" if completion.is_complete else "truncated")
    body = text.casefold()
    parroted = {phrase.casefold() for phrase in copied if phrase.casefold() not in body}
    explicit: list[str] = []
    implicit: list[str] = []
    claimed = {phrase.casefold() for phrase in clean_phrases(_listed(found.get("explicit")))}
    for phrase in clean_phrases([*_listed(found.get("explicit")), *_listed(found.get("implicit"))]):
        folded = phrase.casefold()
        if folded not in parroted:
            shares_word = any(word in body for word in folded.split())
            is_explicit = folded in body or (folded in claimed and shares_word)
            (explicit if is_explicit else implicit).append(phrase)
    if not explicit and not implicit:
        return Answer(reason="no phrases")
    rationale = found.get("rationale")
    said = rationale.strip() if isinstance(rationale, str) else ""
    return Answer(rationale=said, explicit=tuple(explicit), implicit=tuple(implicit))


def _teach_batch(rows: Sequence[Mapping[str, Any]], generator: Generator, config: TeacherOutputs) -> pa.RecordBatch:
    examples = [choose_reference(row, references()) for row in rows]
    prompts = []
    for row, example in zip(rows, examples, strict=True):
        text = generator.fit(row["text"], config.max_text_tokens, keep_end=row["level"] == "user")
        prompts.append(make_prompt(row["level"], text, example))
    completions = generator.generate(prompts)
    made = [_output(*parts) for parts in zip(rows, examples, completions, strict=True)]
    return pa.RecordBatch.from_pylist(made, schema=TEACHER_OUTPUTS)


def _output(row: Mapping[str, Any], example: Reference, completion: Completion) -> dict[str, Any]:
    answer = parse_answer(completion, row["text"], (*example.explicit, *example.implicit))
    return {
        **{name: row[name] for name in ("prompt_id", "level", "entity_id", "stratum", "text")},
        "status": "ok" if answer.reason is None else "rejected",
        "reason": answer.reason,
        "rationale": answer.rationale,
        "explicit_phrases": list(answer.explicit),
        "implicit_phrases": list(answer.implicit),
        "raw_text": completion.text,
        "reference_id": example.id,
        "prompt_tokens": completion.prompt_tokens,
        "output_tokens": completion.output_tokens,
    }


def _json_object(text: str) -> dict[str, Any] | None:
    """The object between the first opening and the last closing brace; models like to talk around it."""
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        return None
    try:
        found = json.loads(text[start : end + 1], strict=False)
    except (json.JSONDecodeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []
