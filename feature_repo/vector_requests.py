"""Ids of one entity → the commands that ask for their vectors; replies → the stored bytes of those that have one."""

import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from feature_repo.feast_format import key_head, vector_head
from feature_repo.resp import LINE, command, end_of
from feature_repo.vector_codec import Codec
from pipeline.errors import ServiceError

# N ids, n of them with a vector, B bytes a vector

_NOTHING = b"$-1\r\n"
_NULL = b"$0\r\n\r\n"
Payload = npt.NDArray[np.uint8]


class VectorRequest:
    """How one entity's vectors are asked for in one generation."""

    def __init__(self, key_name: str, field: bytes, project: str, codec: Codec) -> None:
        """Prepares what all commands and all replies have in common.

        Args:
            key_name: item_id or user_id.
            field: the hash field of the vector.
            project: Feast's project.
            codec: of the generation.
        """
        project_bytes = project.encode()
        self._heads = _Heads(key_head(key_name), len(project_bytes))
        self._tail = project_bytes + LINE + command(field).split(LINE, 1)[1]
        head = vector_head(is_array=codec.is_array, num_bytes=codec.num_bytes)
        self._reply_head = b"$%d\r\n%b" % (len(head) + codec.num_bytes, head)
        self._num_bytes = codec.num_bytes
        self._reply_size = len(self._reply_head) + codec.num_bytes + len(LINE)

    def commands(self, ids: Sequence[str]) -> bytes:
        """One HGET per id."""
        heads, tail = self._heads, self._tail
        # A lone surrogate, which no stored id can hold, is looked for in vain rather than refused.
        encoded = [each.encode("utf-8", "surrogatepass") for each in ids]
        return b"".join([heads[len(each)] + each + tail for each in encoded])

    def answers(
        self, received: bytearray, start: int, ids: Sequence[str]
    ) -> tuple[Payload, npt.NDArray[np.bool_], int]:
        """Takes the replies to commands(ids) apart.

        Args:
            received: whole replies.
            start: where the first one begins.
            ids: as given to commands.

        Returns:
            uint8 [n, B] of the ids that have a vector, the mask [N] of them, and where the last reply ends.

        Raises:
            ServiceError: a reply is no vector of the codec.
        """
        size, count = self._reply_size, len(ids)
        if count and len(received) >= start + count * size:
            replies_NR = np.frombuffer(received, dtype=np.uint8, count=count * size, offset=start).reshape(count, size)
            head = np.frombuffer(self._reply_head, dtype=np.uint8)
            if (replies_NR[:, : len(head)] == head).all():
                return self._payload(replies_NR), np.ones(count, dtype=np.bool_), start + count * size
        return self._walk(received, start, ids)

    def _walk(self, received: bytearray, start: int, ids: Sequence[str]) -> tuple[Payload, npt.NDArray[np.bool_], int]:
        """The same reply by reply, where some are missing."""
        found_N = np.zeros(len(ids), dtype=np.bool_)
        starts: list[int] = []
        for row, each in enumerate(ids):
            if received.startswith(self._reply_head, start):
                found_N[row] = True
                starts.append(start)
                start += self._reply_size
            elif received.startswith(_NOTHING, start):
                start += len(_NOTHING)
            elif received.startswith(_NULL, start):
                start += len(_NULL)
            else:
                raise self._unreadable(received, start, each)
        windows_NR = np.lib.stride_tricks.sliding_window_view(
            np.frombuffer(received, dtype=np.uint8), min(self._reply_size, len(received))
        )
        return self._payload(windows_NR[starts]), found_N, start

    def _payload(self, replies_nR: Payload) -> Payload:
        """A copy, which is aligned and outlives what was received."""
        head = len(self._reply_head)
        return replies_nR[:, head : head + self._num_bytes].copy()

    def _unreadable(self, received: bytearray, start: int, each: str) -> ServiceError:
        reply = bytes(received[start : min(end_of(received, start) or start, start + 120)])
        what = reply.decode(errors="replace").strip() if reply.startswith(b"-") else f"{reply[:24]!r}…"
        return ServiceError(
            f"Redis holds no vector of the active generation for {each!r} but {what}; another program may be writing"
            " there; publish again: msd run publication"
        )


class _Heads(dict[int, bytes]):
    """Length of an id → what stands before the id in its command, made when first needed."""

    def __init__(self, head: bytes, project_size: int) -> None:
        """Takes what begins a key, and the bytes of the project that ends it."""
        super().__init__()
        self._key_head, self._project_size = head, project_size

    def __missing__(self, id_size: int) -> bytes:
        head = self._key_head + struct.pack("<I", id_size)
        size = len(head) + id_size + self._project_size
        self[id_size] = made = b"*3\r\n$4\r\nHGET\r\n$%d\r\n%b" % (size, head)
        return made
