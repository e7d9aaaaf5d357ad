"""Headers of tar archives that do not let an archive fill the memory, nor end before its end."""

from __future__ import annotations

import re
import tarfile
from typing import IO, Any, BinaryIO, cast

from ._decompressing import CHUNK, BadStream

MOST_HEADER = 2**20
"""Bytes of one extended header, such as a long name, and of all global ones; they are read into memory."""
MOST_DIGITS = 256
"""Digits in a row in a pax header: the library may take the square of that to find out that they are no record."""

_PAX = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
_EXTENDED = (*_PAX, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_TOO_MANY_DIGITS = re.compile(rb"[0-9]{%d}" % (MOST_DIGITS + 1))


class _Archive(tarfile.TarFile):
    """Knows how it ended.

    Attributes:
        ended: By the mark that says so; *damaged*: by something that is no header.
        global_bytes: Of all global headers.
    """

    ended = damaged = False
    global_bytes = 0


class _Header(tarfile.TarInfo):
    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Header:
        archive = cast(_Archive, archive)
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # not in the stubs, as below
            archive.ended = True
            raise
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError):  # type: ignore[attr-defined]
            # In the middle it would be taken for the end.
            archive.damaged = True
            raise

    def _proc_member(self, archive: _Archive) -> tarfile.TarInfo:
        if self.type in _EXTENDED and not 0 <= self.size <= MOST_HEADER:
            raise BadStream(f"it has a header of {self.size} bytes")
        if self.type == tarfile.XGLTYPE:
            archive.global_bytes += self.size
            if archive.global_bytes > MOST_HEADER:
                raise BadStream(f"its global headers have more than {MOST_HEADER} bytes")
        if self.type in _PAX:
            _Ahead.look(archive, self.size)
        return cast(tarfile.TarInfo, super()._proc_member(archive))  # type: ignore[misc]

    def _refuse_sparse(self, *args: object) -> tarfile.TarInfo:
        # Their maps may be as long as the archive says, and are read into memory.
        raise BadStream("it has a sparse file, which is not read here; pack it without them")

    _proc_sparse = _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse_sparse


class _Ahead:
    """In place of the file of an archive: gives once more what was looked at before the library gets it."""

    def __init__(self, archive: tarfile.TarFile, data: bytes) -> None:
        self._archive = archive
        self._file = archive.fileobj
        self._data = data

    @classmethod
    def look(cls, archive: tarfile.TarFile, size: int) -> None:
        """Refuse a pax header of *size* bytes that would take the library for ever."""
        assert archive.fileobj is not None
        data = archive.fileobj.read(-(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)
        if _TOO_MANY_DIGITS.search(data):
            raise BadStream(f"it has a header with more than {MOST_DIGITS} digits in a row")
        archive.fileobj = cast(IO[Any], cls(archive, data))

    def read(self, size: int) -> bytes:
        self._archive.fileobj = self._file
        return self._data


def open_archive(content: BinaryIO) -> tarfile.TarFile:
    """Read *content* as an archive, forwards only; owns nothing, so there is nothing to close.

    Raises:
        tarfile.ReadError: It is none, or damaged; while it is read, too.
        BadStream: A header is refused.
    """
    return _Archive.open(fileobj=content, mode="r|", bufsize=CHUNK, tarinfo=_Header, errorlevel=2)


def check_end(archive: tarfile.TarFile, *, mark: bool) -> None:
    """Make sure that *archive*, which has no further member, was read to its end.

    Args:
        mark: Whether the mark of its end must be there.

    Raises:
        BadStream: It was not.
    """
    assert isinstance(archive, _Archive)
    if archive.damaged:
        raise BadStream("it is damaged: what follows a member is none")
    if mark and not archive.ended:
        raise BadStream("it is cut off: its end is missing")
