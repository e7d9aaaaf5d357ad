"""Named pieces of bytes, in a directory or in a tar file, read where they lie."""

from __future__ import annotations

import io
import os
import posixpath
import tarfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import trio

from ._decompressing import DAMAGED
from ._documents import LARGEST_DOCUMENT
from ._errors import UnusableImage

MOST_MEMBERS = 100_000
LONGEST_NAME = 4096
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
        """Read a piece from its beginning, and again if need be. `FileNotFoundError` if there is none."""
        ...

    def size(self, name: str) -> int:
        """Bytes of a piece. `FileNotFoundError` if there is none."""
        ...

    def unchanged(self) -> bool:
        """Whether everything that was opened still is as it was then, as far as can be told without reading it."""
        ...

    def close(self) -> None: ...


class Folder:
    """The files below a directory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened: dict[Path, tuple[int, ...]] = {}

    def has(self, name: str) -> bool:
        inside = not posixpath.isabs(name) and ".." not in name.split("/") and "\0" not in name
        return inside and (self._path / name).is_file()

    def open(self, name: str) -> BinaryIO:
        path = self._place(name)
        file = open(path, "rb")  # noqa: SIM115  # the caller closes it
        self._opened.setdefault(path, state_of(file))
        return file

    def size(self, name: str) -> int:
        return self._place(name).stat().st_size

    def _place(self, name: str) -> Path:
        if not self.has(name):
            raise FileNotFoundError(name)
        return self._path / name

    def unchanged(self) -> bool:
        return all(self._state_now(path) == state for path, state in self._opened.items())

    def _state_now(self, path: Path) -> tuple[int, ...] | None:
        try:
            with open(path, "rb") as file:
                return state_of(file)
        except OSError:
            return None

    def close(self) -> None:
        pass


class TarFile:
    """The files in a tar that is not compressed; only its headers are read to open it.

    Args:
        file: Stays the caller's, and may be closed.

    Raises:
        UnusableImage: It is no tar.
    """

    def __init__(self, file: BinaryIO, what: str) -> None:
        self._file = os.dup(file.fileno())
        try:
            self._state = state_of(self._file)
            self._pieces, self._links, _ = _index(_FileHeaders(self._file), what)
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
        return state_of(self._file) == self._state

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


def state_of(file: BinaryIO | int) -> tuple[int, ...]:
    """What changes when a file does."""
    status = os.fstat(file if isinstance(file, int) else file.fileno())
    # The time of the last change cannot be set by anybody.
    return status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns


class Kept:
    """Pieces that are kept in memory."""

    def __init__(self, pieces: Mapping[str, bytes]) -> None:
        self._pieces = pieces

    def has(self, name: str) -> bool:
        return name in self._pieces

    def open(self, name: str) -> BinaryIO:
        if name not in self._pieces:
            raise FileNotFoundError(name)
        return io.BytesIO(self._pieces[name])

    def size(self, name: str) -> int:
        return len(self._pieces[name])

    def unchanged(self) -> bool:
        return True

    def close(self) -> None:
        pass


class _Piece(io.RawIOBase):
    """A part of a file, read without moving the position that others read at."""

    def __init__(self, file: int, start: int, size: int) -> None:
        self._file = file
        self._start = start
        self._at = start
        self._end = start + size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: self._start, os.SEEK_CUR: self._at, os.SEEK_END: self._end}[whence]
        self._at = min(max(base + offset, self._start), self._end)
        return self._at - self._start

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer)[: self._end - self._at]
        count = os.preadv(self._file, [view], self._at) if len(view) else 0
        self._at += count
        return count


class _Headers(io.RawIOBase):
    """A tar file as the reader of its headers sees it; one that would take much memory ends in an error."""

    def __init__(self) -> None:
        self._at = 0
        self._left = _ALL_HEADERS

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= LARGEST_DOCUMENT or size > self._left:
            raise ValueError("a header is too large")
        data = self._get(size)
        self._at += len(data)
        self._left -= len(data)
        return data

    def _get(self, size: int) -> bytes:
        raise NotImplementedError

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        assert whence == os.SEEK_SET
        self._at = offset
        return self._at

    def tell(self) -> int:
        return self._at


class _FileHeaders(_Headers):
    """Of a file that can be read anywhere."""

    def __init__(self, file: int) -> None:
        super().__init__()
        self._file = file

    def _get(self, size: int) -> bytes:
        return os.pread(self._file, size, self._at)


class _StreamHeaders(_Headers):
    """Of a file that can only be read from its beginning to its end, in a thread of Trio's."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        super().__init__()
        self._file = file
        self._limit = limit
        self._read = 0

    def _get(self, size: int) -> bytes:
        if self._at < self._read:
            raise ValueError("it cannot be read backwards")
        while self._read < self._at and self._next(min(CHUNK, self._at - self._read)):
            trio.from_thread.check_cancelled()
        return self._next(size) if self._read == self._at else b""

    def _next(self, size: int) -> bytes:
        data = b""
        while len(data) < size and (more := self._file.read(size - len(data))):
            data += more
        self._read += len(data)
        if self._read > self._limit:
            raise ValueError(f"it has more than {self._limit} bytes")
        return data


def gather(file: BinaryIO, names: Collection[str], what: str, *, limit: int) -> Kept:
    """The small pieces called *names* of a tar that is read from its beginning to its end, in a thread of Trio's.

    Args:
        limit: Bytes that the tar may have.

    Raises:
        UnusableImage: It is no tar.
    """
    return Kept(_index(_StreamHeaders(file, limit), what, names)[2])


def _index(
    headers: _Headers, what: str, keep: Collection[str] = ()
) -> tuple[dict[str, tuple[int, int]], dict[str, str], dict[str, bytes]]:
    """Where the files of a tar are, what its links lead to, and what is in the files to *keep*."""
    pieces: dict[str, tuple[int, int]] = {}
    links: dict[str, str] = {}
    kept: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=headers, mode="r:") as archive:
            while (member := archive.next()) is not None:
                cast(Any, archive).members.clear()  # it would keep them all
                name = posixpath.normpath(member.name)
                if len(name) > LONGEST_NAME or len(pieces) + len(links) >= MOST_MEMBERS:
                    raise ValueError("it has too many files, or too long names")
                if member.isreg() and not member.issparse():
                    pieces[name] = (member.offset_data, member.size)
                    if name in keep:
                        headers.seek(member.offset_data)
                        kept[name] = headers.read(member.size)
                elif member.issym():
                    links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
                elif member.islnk():
                    links[name] = posixpath.normpath(member.linkname)
    except (tarfile.TarError, ValueError, IndexError, KeyError, OverflowError, RecursionError, *DAMAGED) as error:
        raise UnusableImage(what, f"it is no tar file that can be read: {error}") from error
    return pieces, links, kept
