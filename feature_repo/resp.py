"""Redis's protocol (RESP2): commands as bytes, replies from bytes."""

from dataclasses import dataclass
from typing import TypeAlias

LINE = b"\r\n"


@dataclass(frozen=True)
class Refusal:
    """An error the server sent in the place of an answer."""

    text: bytes


Reply: TypeAlias = "bytes | int | Refusal | list[Reply] | None"


def command(*words: bytes | str | int) -> bytes:
    """One command as Redis reads it."""
    encoded = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"".join([b"*%d\r\n" % len(encoded), *(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)])


def parse(received: bytearray, start: int = 0) -> tuple[Reply, int]:
    """The whole reply that begins at start, and where it ends."""
    line_end = received.index(LINE, start)
    kind, text, after = received[start : start + 1], bytes(received[start + 1 : line_end]), line_end + len(LINE)
    if kind == b"$":
        size = int(text)
        return (None, after) if size < 0 else (bytes(received[after : after + size]), after + size + len(LINE))
    if kind == b"*":
        parts: list[Reply] = []
        for _ in range(int(text)):
            part, after = parse(received, after)
            parts.append(part)
        return parts, after
    if kind == b"-":
        return Refusal(text), after
    return (int(text) if kind == b":" else text), after


def end_of(received: bytearray, start: int = 0) -> int | None:
    """Where the reply that begins at start ends; None while it is not whole."""
    line_end = received.find(LINE, start)
    if line_end < 0:
        return None
    kind, after = received[start : start + 1], line_end + len(LINE)
    if kind == b"$":
        size = int(received[start + 1 : line_end])
        end = after + size + len(LINE) if size >= 0 else after
        return end if end <= len(received) else None
    if kind == b"*":
        for _ in range(int(received[start + 1 : line_end])):
            part_end = end_of(received, after)
            if part_end is None:
                return None
            after = part_end
    return after


def reply_ends(received: bytearray) -> list[int]:
    """Where each of some whole replies ends."""
    ends: list[int] = []
    while (ends[-1] if ends else 0) < len(received):
        end = end_of(received, ends[-1] if ends else 0)
        assert end is not None, "the replies are whole"
        ends.append(end)
    return ends
