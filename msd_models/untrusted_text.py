"""Catalogue text on its way into a prompt: anyone may have written it, and none of it may act.

Control tokens of the chat template become plain characters, so that a text cannot end its own turn; characters nobody
sees are left out, so that it cannot carry words nobody reads; the cut is counted in tokens. What the text says stays
what it says: the prompt marks it as data, and the answer is held to a schema.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from msd_models.generators import Fitted

_CHAT_MARKUP = re.compile(r"<\|[^|<>\n]{1,40}\|>|\[/?(?:INST|SYS)\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>", re.I)
"""Turn markers of common chat templates, whichever model is asked."""
_KEPT = "\n\t\u200c\u200d"
"""Line ends, and the two joiners that Persian, Indic scripts and emoji are written with."""


def fit_text(tokenizer: Any, text: str, max_tokens: int, *, keep_end: bool) -> Fitted:
    """The text made harmless and cut to max_tokens tokens of the tokenizer.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        text: untrusted.
        max_tokens: of what is left.
        keep_end: cut the beginning instead: a history's newest events stand last.
    """
    safe = neutralise(text, control_tokens(tokenizer))
    spans = tokenizer(safe, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    cut = max(len(spans) - max_tokens, 0)
    if cut:
        safe = safe[spans[-max_tokens][0] :] if keep_end else safe[: spans[max_tokens - 1][1]]
    return Fitted(text=safe, tokens_cut=cut)


def control_tokens(tokenizer: Any) -> list[str]:
    """The tokens that mean something to the model beyond their characters, the longest first."""
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted((token for token in special if token.strip()), key=lambda token: (-len(token), token))


def neutralise(text: str, tokens: Sequence[str]) -> str:
    """The text with control tokens broken up and without invisible characters; what is left reads the same.

    Compatibility forms are folded where they would spell a control token (`＜|im_end|＞`).
    """
    visible = "".join(character for character in text if _is_visible(character))
    folded = unicodedata.normalize("NFKC", visible)
    safe = _broken(folded, tokens) if _spells(folded, tokens) and not _spells(visible, tokens) else visible
    return _broken(safe, tokens)


def _is_visible(character: str) -> bool:
    return character in _KEPT or unicodedata.category(character) not in ("Cc", "Cf", "Co", "Cs")


def _spells(text: str, tokens: Sequence[str]) -> bool:
    return _CHAT_MARKUP.search(text) is not None or any(token in text for token in tokens)


def _broken(text: str, tokens: Sequence[str]) -> str:
    """Repeated until nothing is left: a token broken up may leave another one standing."""
    while _spells(text, tokens):
        text = _CHAT_MARKUP.sub(lambda found: _apart(found.group()), text)
        for token in tokens:
            text = text.replace(token, _apart(token))
    return text


def _apart(token: str) -> str:
    return f"{token[0]} {token[1:]}" if len(token) > 1 else " "
