"""Named pieces of bytes, in a directory or in a tar file, read where they lie."""

from __future__ import annotations

import io
import os
import posixpath
import tarfile
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from ._errors import UnusableImage

MOST_MEMBERS = 100_000
LONGEST_NAME = 4096
_LARGEST_HEADER = 2**20
_ALL_HEADERS = 256 * 2**20
"""Bytes that all headers of a tar file may take: they are kept nowhere, but each one is read."""
_DEEPEST_LINK = 8
CHUNK = 2**20


class Box(Protocol):
    """Something with named pieces in it."""

    def has(self, name: str) -> bool:
        """Whether there is a piece of this name."""
        ...

    def open(self, name: str) -> BinaryIO:
        """Read a piece from its beginning. `FileNotFoundError` if there is none."""
        ...

    def size(self, name: str) -> int:
        """Bytes of a piece. `FileNotFoundError` if there is none."""
        ...

    def unchanged(self) -> bool:
        """Whether everything still is as it was when the box was opened, as far as can be told without reading it."""
        ...

    def close(self) -> None: ...


class Folder:
    """The files below a directory."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def has(self, name: str) -> bool:
        inside = not posixpath.isabs(name) and ".." not in name.split("/") and "\0" not in name
        return inside and (self._path / name).is_file()

    def open(self, name: str) -> BinaryIO:
        return open(self._place(name), "rb")

    def size(self, name: str) -> int:
        return self._place(name).stat().st_size

    def _place(self, name: str) -> Path:
        if not self.has(name):
            raise FileNotFoundError(name)
        return self._path / name

    def unchanged(self) -> bool:
        return True

    def close(self) -> None:
        pass


class TarFile:
    """The files in a tar that is not compressed; only its headers are read to open it.

    Raises:
        UnusableImage: It is no tar.
    """

    def __init__(self, path: Path, what: str) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._status = os.fstat(self._file)
            self._pieces, self._links = _index(self._file, what)
        except BaseException:
            os.close(self._file)
            raise

    def has(self, name: str) -> bool:
        return self._find(name) is not None

    def open(self, name: str) -> BinaryIO:
        start, size = self._place(name)
        return io.BufferedReader(_Piece(self._file, start, size), CHUNK)

    def size(self, name: str) -> int:
        return self._place(name)[1]

    def unchanged(self) -> bool:
        now, then = os.fstat(self._file), self._status
        return (now.st_size, now.st_mtime_ns) == (then.st_size, then.st_mtime_ns)

    def close(self) -> None:
        os.close(self._file)

    def _place(self, name: str) -> tuple[int, int]:
        place = self._find(name)
        if place is None:
            raise FileNotFoundError(name)
        return place

    def _find(self, name: str) -> tuple[int, int] | None:
        name = posixpath.normpath(name)
        # `docker save` keeps a layer that two images share once, with a link in place of the other.
        for _ in range(_DEEPEST_LINK):
            if name not in self._links:
                break
            name = self._links[name]
        return self._pieces.get(name)


class _Piece(io.RawIOBase):
    """A part of a file, read without moving the position that others read at."""

    def __init__(self, file: int, start: int, size: int) -> None:
        self._file = file
        self._at = start
        self._end = start + size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer)[: self._end - self._at]
        count = os.preadv(self._file, [view], self._at) if len(view) else 0
        self._at += count
        return count


class _Headers(io.RawIOBase):
    """The tar file as the reader of its headers sees it; one that would take much memory ends in an error."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._at = 0
        self._left = _ALL_HEADERS

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= _LARGEST_HEADER or size > self._left:
            raise ValueError("a header is too large")
        data = os.pread(self._file, size, self._at)
        self._at += len(data)
        self._left -= len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        assert whence == os.SEEK_SET
        self._at = offset
        return self._at

    def tell(self) -> int:
        return self._at


def _index(file: int, what: str) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    pieces: dict[str, tuple[int, int]] = {}
    links: dict[str, str] = {}
    try:
        with tarfile.open(fileobj=_Headers(file), mode="r:") as archive:
            while (member := archive.next()) is not None:
                cast(Any, archive).members.clear()  # it would keep them all
                name = posixpath.normpath(member.name)
                if len(name) > LONGEST_NAME or len(pieces) + len(links) >= MOST_MEMBERS:
                    raise ValueError("it has too many files, or too long names")
                if member.isreg() and not member.issparse():
                    pieces[name] = (member.offset_data, member.size)
                elif member.issym():
                    links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
                elif member.islnk():
                    links[name] = posixpath.normpath(member.linkname)
    except (tarfile.TarError, ValueError, EOFError, IndexError, KeyError, OverflowError, RecursionError) as error:
        raise UnusableImage(what, f"it is no tar file that can be read: {error}") from error
    return pieces, links
