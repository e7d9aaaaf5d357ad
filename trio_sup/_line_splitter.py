"""From bytes as they come to lines, for whoever shows, keeps or follows what backends write."""

from __future__ import annotations

from collections.abc import Iterator

MAX_LINE_BYTES = 64 * 1024
"""Longer lines are cut into pieces of this size."""


class LineSplitter:
    """Cuts one stream into lines of at most 64 KiB, never inside a UTF-8 character."""

    def __init__(self) -> None:
        self._rest = bytearray()

    @property
    def unfinished(self) -> int:
        """How many bytes of a line wait for its end."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that *data* completes, without their line ends."""
        self._rest += data
        lines: list[bytes] = []
        if b"\n" in data:
            *lines, rest = bytes(self._rest).split(b"\n")
            self._rest = bytearray(rest)
        if len(self._rest) > MAX_LINE_BYTES:
            *pieces, rest = _pieces(bytes(self._rest))
            self._rest = bytearray(rest)
            lines += pieces
        if lines and max(map(len, lines)) > MAX_LINE_BYTES:
            lines = [piece for line in lines for piece in _pieces(line)]
        return lines

    def flush(self) -> list[bytes]:
        """The unfinished line, if there is one."""
        rest, self._rest = bytes(self._rest), bytearray()
        return [rest] if rest else []


def _pieces(line: bytes) -> Iterator[bytes]:
    start = 0
    while len(line) - start > MAX_LINE_BYTES:
        end = start + MAX_LINE_BYTES
        while end > start + MAX_LINE_BYTES - 3 and line[end] & 0xC0 == 0x80:
            end -= 1
        yield line[start:end]
        start = end
    yield line[start:]
