"""What backends write: pumped as chunks into a ring bounded in bytes; lines are split only on reading."""

from __future__ import annotations

from collections import deque
from typing import Literal

import attrs

from .._values import ProcessKey

Stream = Literal["stdout", "stderr"]

RING_BYTES = 64 * 1024
"""Output kept per stream of a backend."""

_SMALL = 512

TAIL_LINES = 20
"""Lines of stderr shown with a failure. Source: the LocalAI worker's number."""


@attrs.frozen
class Output:
    """One piece of what a backend wrote: arbitrary bytes, not lines."""

    key: ProcessKey
    generation: int
    stream: Stream
    data: bytes = attrs.field(repr=False)


class OutputRing:
    """The newest bytes of one stream; at least the last `limit` bytes, if there were so many."""

    def __init__(self, limit: int = RING_BYTES) -> None:
        self._limit = limit
        self._chunks: deque[bytes] = deque()
        self._size = 0

    def append(self, data: bytes) -> None:
        if self._chunks and len(self._chunks[-1]) + len(data) <= _SMALL:
            # A program that writes byte by byte must not cost an object per byte.
            data_before = self._chunks.pop()
            self._size -= len(data_before)
            data = data_before + data
        self._chunks.append(data)
        self._size += len(data)
        while self._size - len(self._chunks[0]) >= self._limit:
            self._size -= len(self._chunks.popleft())

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The last *lines* lines that are not blank at the very end, undecodable bytes as ``\\xNN``."""
        text = b"".join(self._chunks).decode("utf-8", "backslashreplace")
        return "\n".join(text.rstrip().splitlines()[-lines:])
