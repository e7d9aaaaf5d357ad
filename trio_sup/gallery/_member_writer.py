"""Writing what an archive, or a layer of an image, has: one member after the other."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tarfile
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from .._gallery_errors import UnsafeArchive
from ._decompressing import CHUNK, BadStream
from ._tree_writer import LeadsOut, TreeWriter

LONGEST_PATH = 4096
"""Source: PATH_MAX of Linux."""

_NO_LINKS = (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS)
_PRIVILEGED = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX
_WHITEOUT, _OPAQUE, _RESERVED = ".wh.", ".wh..wh..opq", ".wh..wh."
"""Source: the OCI image specification, layer.md, "Whiteouts"."""

Place = tuple[tuple[str, ...], str]


class _Refused(Exception):
    """What is wrong with a member, for people."""


class _Reads(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Counts(Protocol):
    """What all archives of one release have in common: `Unpacker`."""

    what: str
    links: dict[Place, str]

    def count_member(self, member: tarfile.TarInfo) -> None: ...
    def count_bytes(self, count: int) -> None: ...


class MemberWriter:
    """Writes the members of one archive, or of one layer, below the directory *into*.

    Args:
        whole: Counts what all of them bring.
        checkpoint: Called often; may raise to stop.
    """

    def __init__(self, into: os.PathLike[str], whole: Counts, *, layer: bool, checkpoint: Callable[[], None]) -> None:
        self._whole = whole
        self._layer = layer
        self._writer = TreeWriter(into, links=layer)
        self._own: set[Place] = set()  # what this layer has brought: its whiteouts are not about that
        self._directories: list[tuple[Place, int, float]] = []
        self._check_cancelled = checkpoint
        self.members = 0

    def close(self) -> None:
        self._writer.close()

    def take(self, archive: tarfile.TarFile) -> None:
        """Write everything that *archive* has.

        Raises:
            UnsafeArchive: A member wants to write where it must not, or what it must not.
            BadStream, tarfile.TarError, ValueError: It is damaged.
            OSError: The disk is full, and the like.
        """
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # it would remember every one of them
            self.members += 1
            self._check_cancelled()
            self._whole.count_member(member)
            try:
                self._take_one(archive, member)
            except (_Refused, LeadsOut) as error:
                raise UnsafeArchive(self._whole.what, str(error), member=member.name) from error
            except OSError as error:
                if error.errno in (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL):
                    raise UnsafeArchive(
                        self._whole.what, f"has a name that cannot be: {error.strerror}", member=member.name
                    ) from error
                raise
        # Last: whatever is written into a directory changes its time, and may not be allowed by its mode.
        for place, mode, at in reversed(self._directories):
            self._set_directory(place, mode, at)

    def _take_one(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        parts = _parts_of(member.name)
        if not parts:
            if not member.isdir():
                raise _Refused("has no name")
            return
        if member.size < 0:
            raise _Refused(f"has a size of {member.size} bytes")
        place = self._writer.place(parts)
        if self._layer and place[1].startswith(_WHITEOUT):
            self._white_out(place)
        elif member.isdir():
            self._make_directory(place, member)
        elif member.issym():
            self._make_link(place, member)
        elif member.islnk():
            self._make_hard_link(place, member)
        elif member.isreg():
            self._make_file(archive, place, member)
        elif member.ischr() or member.isblk():
            raise _Refused("is a device")
        elif member.isfifo():
            raise _Refused("is a named pipe")
        else:
            raise _Refused(f"is of a kind that is not unpacked ({member.type!r})")

    # ---- kinds of members

    def _make_directory(self, place: Place, member: tarfile.TarInfo) -> None:
        mode = self._mode_of(member)
        status = self._writer.status(place)
        if status is not None and not stat.S_ISDIR(status.st_mode):
            if not self._layer:
                raise _Refused("is a directory in the place of something else")
            self._writer.remove(place)
        self._writer.parent((*place[0], place[1]))
        self._note_own(place)
        self._directories.append((place, mode | 0o700, member.mtime))

    def _make_file(self, archive: tarfile.TarFile, place: Place, member: tarfile.TarInfo) -> None:
        mode = self._mode_of(member)
        directory = self._cleared(place)
        source = archive.extractfile(member)
        assert source is not None
        file = os.open(
            place[1], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory
        )
        try:
            self._copy(source, file, member.size)
            os.fchmod(file, mode)
            _set_time(file, member.mtime)
        finally:
            os.close(file)
        self._note_own(place)

    def _copy(self, source: _Reads, to: int, size: int) -> None:
        left = size
        while left:
            data = source.read(min(CHUNK, left))
            if not data:
                raise BadStream("it is cut off in the middle")
            self._check_cancelled()
            self._whole.count_bytes(len(data))
            _write(to, data)
            left -= len(data)

    def _make_link(self, place: Place, member: tarfile.TarInfo) -> None:
        target = member.linkname
        if not target or "\0" in target or len(target) > LONGEST_PATH:
            raise _Refused("is a link to nothing")
        if target.startswith("/"):
            if not self._layer:
                raise _Refused(f"is a link to an absolute path: {target!r}")
            inside = _lexically(())(target)
            target = os.path.relpath("/" + "/".join(inside), "/" + "/".join(place[0])) if inside is not None else target
        if _lexically(place[0])(target) is None:
            raise _Refused(f"is a link that leads out of it: {target!r}")
        directory = self._cleared(place)
        os.symlink(target, place[1], dir_fd=directory)
        self._whole.links[place] = target
        self._note_own(place)

    def _make_hard_link(self, place: Place, member: tarfile.TarInfo) -> None:
        parts = _parts_of(member.linkname)
        if not parts:
            raise _Refused("is a hard link to nothing")
        target = self._writer.place(parts)
        status = self._writer.status(target)
        if status is None:
            raise _Refused(f"is a hard link to what is not there: {member.linkname!r}")
        if not stat.S_ISREG(status.st_mode):
            raise _Refused(f"is a hard link to what is no file: {member.linkname!r}")
        if target == place:
            raise _Refused("is a hard link to itself")
        directory = os.dup(self._cleared(place))
        try:
            source = self._writer.parent(target[0])
            try:
                os.link(target[1], place[1], src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                self._copy_of(source, target[1], directory, place[1], status)
        finally:
            os.close(directory)
        self._note_own(place)

    def _copy_of(self, source: int, name: str, directory: int, copy: str, status: os.stat_result) -> None:
        """Where the file system has no hard links."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source), "rb", buffering=0) as given:
            file = os.open(copy, flags, 0o600, dir_fd=directory)
            try:
                self._copy(given, file, status.st_size)
                os.fchmod(file, stat.S_IMODE(status.st_mode))
                _set_time(file, status.st_mtime)
            finally:
                os.close(file)

    # ---- what lower layers brought

    def _white_out(self, place: Place) -> None:
        parts, name = place
        if name == _OPAQUE:
            self._empty(parts)
        elif name.startswith(_RESERVED):
            return  # bookkeeping of a file system that nobody here has
        else:
            hidden = name.removeprefix(_WHITEOUT)
            if hidden in ("", ".", ".."):
                raise _Refused("removes what has no name")
            self._remove_lower((parts, hidden))

    def _empty(self, parts: tuple[str, ...]) -> None:
        for name in self._writer.names(parts):
            self._remove_lower((parts, name))

    def _remove_lower(self, place: Place) -> None:
        if place not in self._own:
            self._writer.remove(place)
        else:
            status = self._writer.status(place)
            if status is not None and stat.S_ISDIR(status.st_mode):
                self._empty((*place[0], place[1]))

    def _note_own(self, place: Place) -> None:
        if not self._layer:
            return
        # The directories above are brought along by it.
        while place not in self._own:
            self._own.add(place)
            if not place[0]:
                break
            place = place[0][:-1], place[0][-1]

    # ---- helpers

    def _cleared(self, place: Place) -> int:
        """The directory of *place*, in which nothing is called so any more."""
        directory = self._writer.parent(place[0])
        try:
            status = os.stat(place[1], dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return directory
        if stat.S_ISDIR(status.st_mode):
            if not self._layer:
                raise _Refused("is in the place of a directory")
            self._writer.remove(place)
            return self._writer.parent(place[0])
        os.unlink(place[1], dir_fd=directory)
        return directory

    def _mode_of(self, member: tarfile.TarInfo) -> int:
        if member.mode & _PRIVILEGED and not self._layer and not member.isdir():
            raise _Refused("is set-user-id, set-group-id or sticky")
        return (member.mode & 0o755) | 0o600

    def _set_directory(self, place: Place, mode: int, at: float) -> None:
        status = self._writer.status(place)
        if status is None or not stat.S_ISDIR(status.st_mode):
            return  # something later took its place
        directory = self._writer.parent((*place[0], place[1]))
        os.fchmod(directory, mode)
        _set_time(directory, at)


def _parts_of(name: str) -> tuple[str, ...]:
    if "\0" in name:
        raise _Refused("has a name with a NUL in it")
    if len(name) > LONGEST_PATH:
        raise _Refused("has a name that is too long")
    if name.startswith("/"):
        raise _Refused("has an absolute name")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise _Refused("has a name with .. in it")
    return parts


def _lexically(parts: Sequence[str]) -> Callable[[str], tuple[str, ...] | None]:
    """Where a link in the directory at *parts* leads, if no other link is in its way; None for out."""

    def resolve(target: str) -> tuple[str, ...] | None:
        done = list(parts)
        for part in target.split("/"):
            if part == "..":
                if not done:
                    return None
                done.pop()
            elif part not in ("", "."):
                done.append(part)
        return tuple(done)

    return resolve


def _write(to: int, data: bytes) -> None:
    written = os.write(to, data)
    while written < len(data):
        written += os.write(to, memoryview(data)[written:])


def _set_time(file: int, at: float) -> None:
    at = min(max(at, 0.0), time.time())
    # A time that is none, or that the file system cannot hold, is no reason to fail.
    with contextlib.suppress(OSError, OverflowError, ValueError):
        os.utime(file, (at, at))
