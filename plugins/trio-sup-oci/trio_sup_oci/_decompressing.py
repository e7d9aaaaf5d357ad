"""What a file decompresses to, whatever it is compressed with."""

from __future__ import annotations

import gzip
import lzma
import zlib
from typing import BinaryIO, cast

import zstandard

DAMAGED = (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, gzip.BadGzipFile)
"""What reading raises when the compressed data make no sense."""
_GZIP, _XZ, _ZSTD = b"\x1f\x8b", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"
_LARGEST_WINDOW = 2**27
"""Bytes that zstd may take to decompress. Source: what `zstd` itself allows by default."""


def is_compressed(file: BinaryIO) -> bool:
    """Whether *file*, which is at its beginning and can be read again, is compressed in a way that is known here."""
    return _magic(file).startswith((_GZIP, _XZ, _ZSTD))


def decompressed(file: BinaryIO) -> BinaryIO:
    """What *file*, which is at its beginning and can be read again, decompresses to; itself, if it is not compressed.

    Reading raises one of `DAMAGED` if it makes no sense.
    """
    magic = _magic(file)
    if magic.startswith(_GZIP):
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    if magic.startswith(_XZ):
        return cast(BinaryIO, lzma.LZMAFile(file))
    if magic.startswith(_ZSTD):
        decompressor = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
        return cast(BinaryIO, decompressor.stream_reader(file, read_across_frames=True))
    return file


def _magic(file: BinaryIO) -> bytes:
    magic = file.read(8)
    file.seek(0)
    return magic
