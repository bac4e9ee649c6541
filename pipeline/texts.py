"""The plain text of an item and of a user, as every reader gets it: the teacher's prompt and the encoders alike.

One maker for both keeps what the teacher was asked about and what the student embeds the same words.
"""

import hashlib
from collections.abc import Mapping, Sequence

ID_DIGITS = 16


def text_id(text: str) -> str:
    """SHA-256 of the text's UTF-8, its first 16 hex digits: what content_hash and text_id are."""
    return hashlib.sha256(text.encode()).hexdigest()[:ID_DIGITS]


def item_text(text: str, attributes: Mapping[str, str]) -> str:
    """The item's own text, then one `name: value` line per attribute in name order."""
    lines = [text, *(f"{name}: {value}" for name, value in sorted(attributes.items()) if value)]
    return "\n".join(lines)


def profile_text(attributes: Mapping[str, str]) -> str:
    """A user's profile on one line; empty where nothing is known."""
    known = ", ".join(f"{name}: {value}" for name, value in sorted(attributes.items()) if value)
    return f"profile: {known}" if known else ""


def user_text(attributes: Mapping[str, str], titles: Sequence[str], labels: Sequence[int]) -> str:
    """The profile on one line, then the history, oldest first, one title a line.

    Args:
        attributes: the user's profile; may be empty.
        titles: of the history's items, oldest first.
        labels: of the same events; an item that was shown and not clicked is marked as skipped.
    """
    profile = profile_text(attributes)
    lines = [profile] if profile else []
    lines.append("history, oldest first:")
    lines += [f"- {title}" if label else f"- {title} (skipped)" for title, label in zip(titles, labels, strict=True)]
    return "\n".join(lines)
