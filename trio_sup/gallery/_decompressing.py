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
GZIP_SLICE, XZ_SLICE, ZSTD_SLICE = 16 * 1024, 4 * 1024, 1024
"""Bytes that are decompressed at once: so few, since hostile ones become 1 000, 7 000 and 33 000 times as many, and all
of these are in memory then. Measured: 16, 28 and 33 MB, and 1 ms per MB of honest zstd."""


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
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text[:1] == b"<":
        return "a page for a browser"
    if text[:1] in (b"{", b"["):
        return "a JSON document"
    if not start:
        return "empty"
    return "no tar archive"


class Content:
    """The content of *file*, decompressed: read once, from the beginning to the end.

    Args:
        on_input: Told how many bytes of *file* itself have been read.
        checkpoint: Called often; may raise to stop.

    Raises:
        BadStream: It is damaged; by `read`.
    """

    def __init__(
        self,
        file: BinaryIO,
        on_input: Callable[[int], None] = lambda count: None,
        checkpoint: Callable[[], None] = lambda: None,
    ) -> None:
        self._file = file
        self._on_input = on_input
        self._checkpoint = checkpoint
        self._taken = 0
        self.start = self._read_input(CHUNK)
        self._chunk, self._at = self.start, 0  # what was read last of it, and how much of that is used up
        self._make, self._slice = _decompressor_of(self.start)
        self._decompressor = self._make() if self._make is not None else None
        self._buffer = memoryview(b"")

    def _read_input(self, count: int) -> bytes:
        data = self._file.read(count)
        self._taken += len(data)
        self._on_input(self._taken)
        return data

    def _input(self) -> bytes:
        """Some more of *file*; nothing only at its end."""
        if self._at >= len(self._chunk):
            self._chunk, self._at = self._read_input(CHUNK), 0
        data = self._chunk[self._at : self._at + self._slice]
        self._at += len(data)
        return data

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
            self._checkpoint()
            return self._input()
        while True:
            self._checkpoint()
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
                self._at -= len(self._decompressor.unused_data)
            if piece:
                return piece


def _decompressor_of(start: bytes) -> tuple[Callable[[], _Decompressor] | None, int]:
    """What makes a decompressor for what begins so, if one is needed; and how much to give it at once."""
    if start[:2] == b"\x1f\x8b":
        return lambda: zlib.decompressobj(wbits=31), GZIP_SLICE
    if start[:6] == b"\xfd7zXZ\0":
        return lambda: lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=XZ_MEMORY), XZ_SLICE
    if start[:4] == b"\x28\xb5\x2f\xfd" or (start[1:4] == b"\x2a\x4d\x18" and 0x50 <= start[0] <= 0x5F):
        from zstandard import ZstdDecompressor

        return lambda: ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompressobj(), ZSTD_SLICE
    return None, CHUNK
