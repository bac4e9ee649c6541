"""What the student reads and writes: a short instruction, the text, and the phrases in one compact line each.

The same ids are trained on and embedded, so that a vector is the state the student was taught in. The instruction is a
few tokens, since every row of the catalogue pays for it. Implied phrases come first: the state that ends the prompt is
then the one that predicts what the text does not say.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from msd_models.phrases import clean_phrases

INSTRUCTION = "Key phrases of:\n"
CUE = "\nImplied:"
STATED = "\nStated:"
TEMPLATE = f"{INSTRUCTION}{{text}}{CUE} {{implicit}}{STATED} {{explicit}}"
"""Part of the space id: another wording is another vector space."""


@dataclass(frozen=True, kw_only=True)
class PromptIds:
    """Token ids around the text under one tokenizer."""

    tokenizer: Any
    instruction: list[int]
    cue: list[int]

    def of(self, text: str, *, max_tokens: int, keep_end: bool) -> list[int]:
        """The whole prompt in at most max_tokens tokens; the text is cut, never the words around it.

        Args:
            text: untrusted; control tokens inside it are read as plain characters.
            max_tokens: of instruction, text and cue together.
            keep_end: cut the beginning instead: a history's newest events stand last.
        """
        return self._around(plain_ids(self.tokenizer, text), max_tokens, keep_end)

    def of_all(self, texts: Sequence[str], *, max_tokens: int, keep_end: bool) -> list[list[int]]:
        """The prompts of many texts, tokenised in one call."""
        if not texts:
            return []
        options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
        rows = self.tokenizer(list(texts), return_attention_mask=False, **options)["input_ids"]
        return [self._around(row, max_tokens, keep_end) for row in rows]

    def completion(self, explicit: Sequence[str], implicit: Sequence[str]) -> list[int]:
        """What the student learns to write after the prompt, ending with the end token."""
        text = f" {_line(implicit)}{STATED} {_line(explicit)}"
        return [*plain_ids(self.tokenizer, text), self.tokenizer.eos_token_id]

    def _around(self, ids: list[int], max_tokens: int, keep_end: bool) -> list[int]:
        room = max(max_tokens - len(self.instruction) - len(self.cue), 1)
        return [*self.instruction, *(ids[-room:] if keep_end else ids[:room]), *self.cue]


def prompt_ids(tokenizer: Any) -> PromptIds:
    """The fixed parts, tokenised once."""
    return PromptIds(tokenizer=tokenizer, instruction=plain_ids(tokenizer, INSTRUCTION), cue=plain_ids(tokenizer, CUE))


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of text in which no control token is special."""
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"])


def parse_completion(text: str) -> tuple[list[str], list[str]]:
    """(explicit, implicit) phrases of what the student wrote; what is not there is empty."""
    implied, _, stated = text.partition(STATED.strip())
    return clean_phrases(stated.split(";")), clean_phrases(implied.split(";"))


def _line(phrases: Sequence[str]) -> str:
    return "; ".join(phrase.replace(";", ",") for phrase in phrases)
