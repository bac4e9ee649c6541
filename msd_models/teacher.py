"""Teacher outputs from prompts: a large model names what a text says and what it implies (docs/methods.md).

Row-wise: one batch of prompts in, one batch of outputs out. The model sees a stream: rows of the next batches are under
way while the last ones of this batch finish, or are asked again. Every completion is kept by its content key as soon as
it is there, so that no run, preset or day pays for it twice. A row the teacher fails on is kept, with its reason.
"""

import json
import platform
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from msd_models.answers import UNGROUNDED, Answer, parse_answer
from msd_models.generators import Completion, Request, make_generator
from msd_models.grounding import Grounded, Grounder, Thresholds, normal, occurs
from msd_models.questions import Question, Questioner
from pipeline.config import TeacherOutputs
from pipeline.content_store import ContentStore
from pipeline.errors import ConfigError
from pipeline.rows import FACTS
from pipeline.schemas import TEACHER_OUTPUTS

THROUGHPUT = "throughput"
"""Name under which the store keeps how fast the model was on this machine."""
TELLING_ROWS = 8
"""Fewer completions say nothing of a pace."""
MAX_WAITING_BATCHES = 64
"""Finished batches that may wait for one before them: what bounds the memory when a row is slow."""


@dataclass(kw_only=True)
class _Asked:
    """A question under way, for every row that asks it."""

    question: Question
    text: str
    rows: list[tuple["_Batch", int]]
    tried: list[Completion] = field(default_factory=list)
    answer: Answer = field(default_factory=Answer)
    grounded: Grounded | None = None


@dataclass(kw_only=True)
class _Batch:
    """One batch of prompts on its way to become a batch of outputs."""

    rows: list[dict[str, Any]]
    asked: list[_Asked | None]
    open: int


def teach(batches: Iterator[pa.RecordBatch], config: TeacherOutputs, store: ContentStore) -> Iterator[pa.RecordBatch]:
    """One output row per prompt row, in order; the model is loaded when the first completion is missing, once.

    Args:
        batches: of prompts.
        config: the generator, its model and limits.
        store: completions by content key; what is there is not generated again.

    Raises:
        ConfigError: a model, script, template or references that cannot be used.
        MissingExtra: vllm is not installed.
        ServiceError: the model cannot be run.
    """
    if config.max_attempts < 1:
        raise ConfigError(f"teacher_outputs.max_attempts is {config.max_attempts}; wanted 1 or more")
    teacher = Teacher(config, store)
    try:
        yield from teacher.answered(batches)
    finally:
        teacher.close()


class Teacher:
    """The stream between prompts and outputs."""

    def __init__(self, config: TeacherOutputs, store: ContentStore) -> None:
        """Makes the generator, which loads its model later."""
        self.config = config
        self.store = store
        self.generator = make_generator(config)
        self.questioner = Questioner(config, self.generator)
        thresholds = Thresholds(
            grounded=config.grounding_threshold,
            repeated=config.repetition_threshold,
            unrelated=config.unrelated_threshold,
        )
        self.grounder = Grounder(self.questioner.encoder, thresholds)
        self.under_way: dict[str, _Asked] = {}
        """By the key of the first attempt."""
        self.pace = Pace()
        self.told: dict[str, float] = {}

    def answered(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """A batch of outputs for each batch of prompts, in order."""
        waiting: deque[_Batch] = deque()
        is_exhausted = False
        while waiting or not is_exhausted:
            has_room = len(self.under_way) < 2 * self.generator.capacity and len(waiting) < MAX_WAITING_BATCHES
            if has_room and not is_exhausted:
                batch = next(batches, None)
                is_exhausted = batch is None
                if batch is not None:
                    waiting.append(self._take(batch.to_pylist()))
            else:
                self._collect()
            while waiting and waiting[0].open == 0:
                yield _outputs(waiting.popleft()).replace_schema_metadata(self._facts())

    def close(self) -> None:
        """Ends the model and keeps how fast it was."""
        self.generator.close()
        if self.pace.rows >= TELLING_ROWS:
            self.store.note(THROUGHPUT, self.pace.told(self.questioner.facts["model"]))

    def _facts(self) -> dict[bytes, bytes]:
        """What was asked of the model since the batch before, for the manifest (pipeline.rows)."""
        now = self.pace.work()
        since = {name: round(amount - self.told.get(name, 0), 3) for name, amount in now.items()}
        self.told = now
        return {FACTS: json.dumps(since).encode()} if any(since.values()) else {}

    def _take(self, rows: list[dict[str, Any]]) -> _Batch:
        """Asks a batch's questions, each once, rows with the same worked examples one after the other."""
        questions = self.questioner.ask(rows)
        batch = _Batch(rows=rows, asked=[None] * len(rows), open=len(rows))
        fresh: list[_Asked] = []
        order = sorted(range(len(rows)), key=lambda n: (questions[n].template_id, _reference_ids(questions[n]), n))
        for number in order:
            key = questions[number].keys[0]
            if key in self.under_way:
                self.under_way[key].rows.append((batch, number))
                continue
            asked = _Asked(question=questions[number], text=rows[number]["teacher_text"], rows=[(batch, number)])
            self.under_way[key] = asked
            fresh.append(asked)
        self._go_on(fresh)
        return batch

    def _go_on(self, pending: list[_Asked]) -> None:
        """Brings each question to its end as far as the store holds its attempts; submits the first missing one."""
        while pending:
            keys = [asked.question.keys[len(asked.tried)] for asked in pending]
            kept = self.store.get_many(keys)
            found = []
            for asked, key in zip(pending, keys, strict=True):
                if key in kept:
                    asked.tried.append(Completion(**kept[key]))
                    found.append(asked)
                else:
                    self._submit(asked)
            pending = self._judge(found)

    def _submit(self, asked: _Asked) -> None:
        self.pace.start()
        sampling = self.questioner.sampling(len(asked.tried))
        key = asked.question.keys[0]
        self.generator.submit(Request(id=key, prompt=asked.question.prompt, sampling=sampling))

    def _collect(self) -> None:
        """Keeps what has finished, then judges it: a completion is paid for before it is known to be good."""
        finished = []
        for key, completion in self.generator.collect():
            asked = self.under_way[key]
            if completion.error is None:
                self.store.put(asked.question.keys[len(asked.tried)], asdict(completion))
            self.pace.count(completion)
            asked.tried.append(completion)
            finished.append(asked)
        self._go_on(self._judge(finished))

    def _judge(self, asked: Sequence[_Asked]) -> list[_Asked]:
        """Settles the questions whose last completion can be used or was the last one; returns those to ask again."""
        for one in asked:
            one.answer, one.grounded = parse_answer(one.tried[-1]), None
        usable = [one for one in asked if one.answer.reason is None]
        copied = [[phrase for example in one.question.references for phrase in example.phrases] for one in usable]
        sorted_phrases = self.grounder.sort([(one.text, one.answer, c) for one, c in zip(usable, copied, strict=True)])
        for one, grounded in zip(usable, sorted_phrases, strict=True):
            one.grounded = grounded
            if not grounded.explicit and not grounded.implicit:
                one.answer = Answer(reason=UNGROUNDED)
        again = []
        for one in asked:
            is_last = len(one.tried) == len(one.question.keys) or one.tried[-1].error is not None
            if one.answer.reason is None or is_last:
                self._settle(one)
            else:
                again.append(one)
        return again

    def _settle(self, asked: _Asked) -> None:
        del self.under_way[asked.question.keys[0]]
        for batch, number in asked.rows:
            batch.asked[number] = asked
            batch.open -= 1


@dataclass(kw_only=True)
class Pace:
    """How fast completions come, from the first request on."""

    started: float | None = None
    rows: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    first_at: float = 0.0
    last_at: float = 0.0

    def start(self) -> None:
        """The first request starts the clock."""
        self.started = self.started or time.monotonic()

    def count(self, completion: Completion) -> None:
        """Counts a completion."""
        self.last_at = time.monotonic()
        self.first_at = self.first_at or self.last_at
        self.rows += 1
        self.prompt_tokens += completion.prompt_tokens
        self.output_tokens += completion.output_tokens

    def work(self) -> dict[str, float]:
        """What the model did so far in this process."""
        return {
            "prompt_tokens_sent": self.prompt_tokens,
            "output_tokens_generated": self.output_tokens,
            "generating_seconds": max(self.last_at - (self.started or self.last_at), 0.0),
        }

    def told(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """The facts to keep: seconds_to_first covers loading the model."""
        started = self.started or self.first_at
        return {
            "model": dict(model),
            "machine": platform.node(),
            "rows": self.rows,
            "prompt_tokens": self.prompt_tokens,
            "output_tokens": self.output_tokens,
            "seconds_to_first": round(self.first_at - started, 3),
            "seconds": round(self.last_at - started, 3),
        }


def _outputs(batch: _Batch) -> pa.RecordBatch:
    made = []
    for row, asked in zip(batch.rows, batch.asked, strict=True):
        assert asked is not None
        made.append(_output(row, asked))
    return pa.RecordBatch.from_pylist(made, schema=TEACHER_OUTPUTS)


def _output(row: Mapping[str, Any], asked: _Asked) -> dict[str, Any]:
    answer, grounded, tried = asked.answer, asked.grounded, asked.tried
    explicit, foreign = _own_phrases(row["text"], asked) if answer.reason is None else ([], 0)
    implicit = list(grounded.implicit) if grounded and answer.reason is None else []
    is_ok = bool(explicit or implicit)
    pays = row["representative_id"] == row["prompt_id"]
    copied = ("prompt_id", "level", "entity_id", "stratum", "text", "representative_id")
    return {
        **{name: row[name] for name in copied},
        "status": "ok" if is_ok else "rejected",
        "reason": None if is_ok else answer.reason or UNGROUNDED,
        "rationale": answer.rationale,
        "explicit_phrases": explicit,
        "implicit_phrases": implicit,
        "raw_text": tried[-1].text,
        "template_id": asked.question.template_id,
        "reference_ids": list(_reference_ids(asked.question)),
        "content_key": asked.question.keys[0],
        "attempts": sum(completion.error is None for completion in tried),
        "prompt_tokens": sum(completion.prompt_tokens for completion in tried) if pays else 0,
        "output_tokens": sum(completion.output_tokens for completion in tried) if pays else 0,
        "text_tokens_cut": asked.question.tokens_cut,
        "moved_to_implicit": grounded.moved_to_implicit if grounded else 0,
        "moved_to_explicit": grounded.moved_to_explicit if grounded else 0,
        "unrelated_phrases": (grounded.unrelated if grounded else 0) + foreign,
        "repeated_phrases": answer.repeated + (grounded.repeated if grounded else 0),
    }


def _own_phrases(text: str, asked: _Asked) -> tuple[list[str], int]:
    """(explicit phrases, how many are left out): a near-duplicate does not state the words it differs by."""
    explicit = list(asked.grounded.explicit) if asked.grounded else []
    if text == asked.text:
        return explicit, 0
    own, read = normal(text), normal(asked.text)
    kept = [phrase for phrase in explicit if occurs(normal(phrase), own) or not occurs(normal(phrase), read)]
    return kept, len(explicit) - len(kept)


def _reference_ids(question: Question) -> tuple[str, ...]:
    return tuple(reference.id for reference in question.references)
