"""What an archive was compressed with, told by its first bytes; and its content as one forward-only stream."""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import IO, BinaryIO, Protocol, cast

from ._zstd_frames import FrameEnds

CHUNK = 256 * 1024
"""Bytes that are read or written at once; a piece of content is never larger, however well it was compressed."""
INPUT = 64 * 1024
"""Compressed bytes that are read at once."""
XZ_MEMORY = 256 * 2**20
"""Memory that an xz stream may ask for; that of ``xz -9`` is 65 MiB."""
ZSTD_WINDOW = 2**27
"""The largest window of a zstd stream. Source: what ``zstd`` itself accepts unless told otherwise."""

_GZIP, _XZ = b"\x1f\x8b", b"\xfd7zXZ\0"
_KINDS = (
    (b"PK\x03\x04", "a zip file"),
    (b"PK\x05\x06", "a zip file"),
    (b"BZh", "compressed with bzip2, which is not read here"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip file"),
    (b"Rar!\x1a\x07", "a RAR file"),
    (b"\x04\x22\x4d\x18", "compressed with lz4, which is not read here"),
    (b"\x7fELF", "a program or library"),
    (b"GGUF", "a model (GGUF)"),
    (b"#!", "a script"),
    (b"!<arch>\n", "a Debian package or a static library"),
    (b"\xed\xab\xee\xdb", "an RPM package"),
    (b"%PDF", "a PDF document"),
)


class BadStream(Exception):
    """The content cannot be read: it is damaged, cut off, or no archive at all."""


def looks_like(start: bytes) -> str:
    """What a file that begins with *start* is, for a message."""
    if not start:
        return "empty"
    for magic, words in _KINDS:
        if start.startswith(magic):
            return words
    if _is_compressed(start):
        return "compressed, but what is in it is no tar archive"
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text[:1] == b"<":
        return "an XML document" if text.startswith(b"<?xml") else "a page for a browser"
    if text[:1] in (b"{", b"["):
        return "a JSON document"
    return "no tar archive"


class Content:
    """The content of *file*, decompressed: read once, from the beginning to the end, and never much of it at a time.

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
        self.start = self._input(INPUT)
        self._pieces = self._decompressed()
        self._left = memoryview(b"")

    def read(self, count: int) -> bytes:
        """The next *count* bytes; fewer only at the end."""
        parts, missing = [], count
        while missing and (part := self._some(missing)):
            parts.append(part)
            missing -= len(part)
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)

    def _some(self, most: int) -> memoryview:
        """Some of the next *most* bytes; none only at the end."""
        while not self._left:
            self._checkpoint()
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._left = memoryview(piece)
        some, self._left = self._left[:most], self._left[most:]
        return some

    # ---- from the packed file to its content, in pieces of a bounded size

    def _input(self, most: int) -> bytes:
        data = self._file.read(most)
        self._taken += len(data)
        self._on_input(self._taken)
        return data

    def _inputs(self) -> Iterator[bytes]:
        data = self.start
        while data:
            yield data
            data = self._input(INPUT)

    def _decompressed(self) -> Iterator[bytes]:
        if self.start.startswith(_GZIP):
            return self._members(_Gzip, _GZIP)
        if self.start.startswith(_XZ):
            return self._members(_Xz, _XZ)
        if _is_zstd(self.start):
            return self._zstd()
        return self._inputs()

    def _members(self, kind: Callable[[], _Decompressor], magic: bytes) -> Iterator[bytes]:
        """What several streams one after the other (as after ``cat one.gz two.gz``) hold, zeros between them or not."""
        inputs = self._inputs()
        rest = b""
        while True:
            # Zeros are what tapes and pads leave behind.
            while not rest:
                data = next(inputs, None)
                if data is None:
                    return
                rest = data.lstrip(b"\0")
            if len(rest) < len(magic):
                rest += next(inputs, b"")
            if not rest.startswith(magic):
                raise BadStream("something else follows what is compressed in it")
            decompressor = kind()
            while True:
                try:
                    piece = decompressor.some(rest)
                except (zlib.error, lzma.LZMAError, MemoryError) as error:
                    raise BadStream(f"it is damaged ({error})") from error
                if piece:
                    yield piece
                if decompressor.unused is not None:
                    rest = decompressor.unused.lstrip(b"\0")
                    break
                rest = b""
                if decompressor.needs_input:
                    data = next(inputs, None)
                    if data is None:
                        raise BadStream("it is cut off in the middle")
                    rest = data

    def _zstd(self) -> Iterator[bytes]:
        from zstandard import ZstdDecompressor, ZstdError

        frames = _Frames(self._inputs())
        reader = ZstdDecompressor(max_window_size=ZSTD_WINDOW).stream_reader(
            cast(IO[bytes], frames), read_size=INPUT, read_across_frames=True
        )
        while True:
            try:
                piece = reader.read(CHUNK)
            except (ZstdError, MemoryError) as error:
                raise BadStream(f"it is damaged ({error})") from error
            if not piece:
                return
            yield piece


class _Decompressor(Protocol):
    """One compressed stream; `unused` is what follows it, None before its end."""

    needs_input: bool
    unused: bytes | None

    def some(self, data: bytes) -> bytes: ...


class _Gzip:
    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        self.needs_input = True
        self.unused: bytes | None = None

    def some(self, data: bytes) -> bytes:
        piece = self._zlib.decompress(self._zlib.unconsumed_tail + data, CHUNK)
        if self._zlib.eof:
            self.unused = self._zlib.unused_data
        # A piece of the largest size: more may wait inside, though all of the input is in there.
        self.needs_input = len(piece) < CHUNK and not self._zlib.unconsumed_tail
        return piece


class _Xz:
    def __init__(self) -> None:
        self._lzma = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
        self.needs_input = True
        self.unused: bytes | None = None

    def some(self, data: bytes) -> bytes:
        piece = self._lzma.decompress(data, CHUNK)
        if self._lzma.eof:
            self.unused = self._lzma.unused_data
        self.needs_input = self._lzma.needs_input
        return piece


class _Frames:
    """A file of zstd frames, for the library, which takes the end of the file for that of the last frame."""

    def __init__(self, inputs: Iterator[bytes]) -> None:
        self._inputs = inputs
        self._ends = FrameEnds()

    def read(self, count: int) -> bytes:
        data = next(self._inputs, b"")
        assert len(data) <= count
        try:
            self._ends.feed(data)
        except ValueError as error:
            raise BadStream(f"it is damaged ({error})") from error
        if not data and not self._ends.between_frames:
            raise BadStream("it is cut off in the middle")
        return data


def _is_zstd(start: bytes) -> bool:
    # An ordinary frame, or one that is to be skipped: some tools write one first.
    return start[:4] == b"\x28\xb5\x2f\xfd" or (start[1:4] == b"\x2a\x4d\x18" and 0x50 <= start[0] <= 0x5F)


def _is_compressed(start: bytes) -> bool:
    return start.startswith((_GZIP, _XZ)) or _is_zstd(start)
