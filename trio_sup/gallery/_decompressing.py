"""What an archive was compressed with, told by its first bytes; and its content as one forward-only stream."""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable
from typing import BinaryIO, Protocol

CHUNK = 256 * 1024
"""Bytes that are read or written at once."""
XZ_MEMORY = 256 * 2**20
"""Memory that an xz stream may ask for; that of ``xz -9`` is 65 MiB."""
ZSTD_WINDOW = 2**27
"""The largest window of a zstd stream; that of ``zstd --long`` is 2**27."""


class BadStream(Exception):
    """The content cannot be read: it is damaged, cut off, or no archive at all."""


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes) -> bytes: ...


def looks_like(start: bytes) -> str:
    """What a file that begins with *start* is, for a message."""
    if start[:4] == b"PK\x03\x04":
        return "a zip file"
    if start[:3] == b"BZh":
        return "compressed with bzip2, which is not read here"
    if start[:1] in (b"<", b"\n", b" ") and b"<" in start:
        return "a page for a browser"
    if start[:1] in (b"{", b"["):
        return "a JSON document"
    if not start:
        return "empty"
    return "no tar archive"


class Content:
    """The content of *file*, decompressed: read once, from the beginning to the end.

    Args:
        on_input: Told how many bytes of *file* itself have been read.

    Raises:
        BadStream: It is damaged; by `read`.
    """

    def __init__(self, file: BinaryIO, on_input: Callable[[int], None] = lambda count: None) -> None:
        self._file = file
        self._on_input = on_input
        self._taken = 0
        self.start = self._read_input(CHUNK)
        self._next_input: bytes | None = self.start
        self._make = _decompressor_of(self.start)
        self._decompressor = self._make() if self._make is not None else None
        self._buffer = memoryview(b"")

    def _read_input(self, count: int) -> bytes:
        data = self._file.read(count)
        self._taken += len(data)
        self._on_input(self._taken)
        return data

    def _input(self) -> bytes:
        if self._next_input is not None:
            data, self._next_input = self._next_input, None
            return data
        return self._read_input(CHUNK)

    def read(self, count: int) -> bytes:
        """The next *count* bytes; fewer only at the end."""
        if len(self._buffer) >= count:
            data, self._buffer = bytes(self._buffer[:count]), self._buffer[count:]
            return data
        parts, missing = [bytes(self._buffer)], count - len(self._buffer)
        self._buffer = memoryview(b"")
        while missing:
            piece = self._piece()
            if not piece:
                break
            if len(piece) > missing:
                self._buffer = memoryview(piece)[missing:]
                piece = piece[:missing]
            parts.append(piece)
            missing -= len(piece)
        return b"".join(parts)

    def _piece(self) -> bytes:
        """Some more bytes; none only at the end."""
        if self._decompressor is None:
            return self._input()
        while True:
            data = self._input()
            if not data:
                if not self._decompressor.eof:
                    raise BadStream("it is cut off in the middle")
                return b""
            if self._decompressor.eof:
                # Another member follows, as after `cat one.gz two.gz`; zeros are what tapes and pads leave behind.
                data = data.lstrip(b"\0")
                if not data:
                    continue
                assert self._make is not None
                self._decompressor = self._make()
            try:
                piece = self._decompressor.decompress(data)
            except Exception as error:  # each library has errors of its own
                raise BadStream(f"it is damaged ({error})") from error
            if self._decompressor.eof:
                self._next_input = self._decompressor.unused_data or None
            if piece:
                return piece


def _decompressor_of(start: bytes) -> Callable[[], _Decompressor] | None:
    if start[:2] == b"\x1f\x8b":
        return lambda: zlib.decompressobj(wbits=31)
    if start[:6] == b"\xfd7zXZ\0":
        return lambda: lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
    if start[:4] == b"\x28\xb5\x2f\xfd" or (start[1:4] == b"\x2a\x4d\x18" and 0x50 <= start[0] <= 0x5F):
        from zstandard import ZstdDecompressor

        return lambda: ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompressobj()
    return None
