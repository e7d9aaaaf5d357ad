"""Unpacking what strangers have packed: nothing is written outside of one directory, and not too much inside."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol, cast

import attrs
import trio

from .._gallery_errors import ArchiveTooLarge, InstallFailed, UnsafeArchive
from .._releases import UnpackLimits
from ._decompressing import CHUNK, BadStream, Content, looks_like
from ._tree_writer import LeadsOut, TreeWriter

MOST_HEADER = 2**20
"""Bytes of one extended header, such as a long name; they are read into memory."""
LONGEST_PATH = 4096
"""Source: PATH_MAX of Linux."""

_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_NO_LINKS = (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS)
_PRIVILEGED = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX
_WHITEOUT, _OPAQUE, _RESERVED = ".wh.", ".wh..wh..opq", ".wh..wh."
"""Source: the OCI image specification, layer.md, "Whiteouts"."""

Place = tuple[tuple[str, ...], str]


class _Refused(Exception):
    """What is wrong with a member, for people."""


class _Header(tarfile.TarInfo):
    """A header that does not let an archive fill the memory with names."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _EXTENDED and not 0 <= self.size <= MOST_HEADER:
            raise BadStream(f"it has a header of {self.size} bytes")
        return cast(tarfile.TarInfo, super()._proc_member(archive))  # type: ignore[misc]  # not in the stubs


class _Reads(Protocol):
    def read(self, size: int, /) -> bytes: ...


@attrs.define(eq=False)
class Unpacker:
    """Unpacks one release into a directory: an archive, or the layers of an image, one over the other.

    Tar archives are read, plain or compressed with gzip, xz or zstd, told by their first bytes. Owners are not kept;
    modes are, without what others might write and without set-user-id and the like; times are.

    Args:
        into: The directory; nothing outside of it is written, whatever the archive says. What is in it after a failure
            is for the caller to throw away.
        what: What it is called in messages.
        limits: How much may be unpacked; of everything together.
        report: Told now and then how many bytes of the packed files have been read.
    """

    into: Path
    what: str
    limits: UnpackLimits = attrs.field(factory=UnpackLimits)
    report: Callable[[int], None] = attrs.field(default=lambda count: None, kw_only=True)
    _bytes: int = attrs.field(default=0, init=False)
    _members: int = attrs.field(default=0, init=False)
    _read_before: int = attrs.field(default=0, init=False)
    links: dict[Place, str] = attrs.field(factory=dict, init=False, repr=False)

    def unpack(self, file: BinaryIO, *, layer: bool = False) -> None:
        """Unpack *file*; blocks, and is meant for a thread of `trio.to_thread.run_sync`.

        Args:
            layer: It is a layer of an image: it may replace what earlier ones brought and, by whiteouts, remove it;
                links to absolute paths mean those inside the image; set-user-id bits are left out, not refused.

        Raises:
            UnsafeArchive: A member wants to write where it must not, or what it must not.
            ArchiveTooLarge: It goes beyond the limits.
            InstallFailed: It is damaged, or no archive.
            OSError: The disk is full, and the like.

        Cancellation: that of the task which waits for the thread is looked for often.
        """
        read = 0

        def note(count: int) -> None:
            nonlocal read
            read = count
            self.report(self._read_before + count)

        one = _One(self, layer)
        try:
            content = Content(file, note)
            try:
                archive = tarfile.open(  # noqa: SIM115  # it owns nothing: closing it would only read on
                    fileobj=cast(BinaryIO, content), mode="r|", bufsize=CHUNK, tarinfo=_Header, errorlevel=2
                )
                one.take(archive)
            except tarfile.ReadError as error:
                if one.members:
                    raise BadStream(f"it is damaged ({error})") from error
                raise BadStream(f"it is {looks_like(content.start)}") from error
        except (BadStream, tarfile.TarError, EOFError, ValueError, RecursionError) as error:
            why = str(error) if isinstance(error, BadStream) else f"it is damaged ({error})"
            raise InstallFailed(self.what, why) from error
        finally:
            one.close()
            self._read_before += read

    def finish(self, *, lift: bool = False) -> None:
        """Look, now that everything is there, whether a link leads out; to be called once, after the last `unpack`.

        Args:
            lift: If everything is in one directory, and ``run.sh`` with it, leave that directory out first.

        Raises:
            UnsafeArchive: One does.
        """
        lifted = 1 if lift and _lift_only_directory(self.into) else 0
        writer = TreeWriter(self.into, links=False)
        try:
            for (parts, name), target in self.links.items():
                place = parts[lifted:], name
                status = writer.status(place)
                if status is not None and stat.S_ISLNK(status.st_mode) and not writer.reaches(place[0], target):
                    raise UnsafeArchive(
                        self.what, f"is a link that leads out of it: {target}", member="/".join((*place[0], place[1]))
                    )
        finally:
            writer.close()

    def count_member(self) -> None:
        self._members += 1
        if self._members > self.limits.max_files:
            raise ArchiveTooLarge(self.what, f"it has more than {self.limits.max_files} files (max_files)")

    def count_bytes(self, count: int) -> None:
        self._bytes += count
        if self._bytes > self.limits.max_bytes:
            raise ArchiveTooLarge(self.what, f"it unpacks to more than {self.limits.max_bytes} bytes (max_bytes)")


class _One:
    """One archive, or one layer, on its way to disk."""

    def __init__(self, whole: Unpacker, layer: bool) -> None:
        self._whole = whole
        self._layer = layer
        self._writer = TreeWriter(whole.into, links=layer)
        self._own: set[Place] = set()  # what this layer has brought: its whiteouts are not about that
        self._directories: list[tuple[Place, int, float]] = []
        self._check_cancelled = _cancel_check()
        self.members = 0

    def close(self) -> None:
        self._writer.close()

    def take(self, archive: tarfile.TarFile) -> None:
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # it would remember every one of them
            self.members += 1
            self._check_cancelled()
            self._whole.count_member()
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
        for place, mode, time in reversed(self._directories):
            self._set_directory(place, mode, time)

    def _take_one(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        parts = _parts_of(member.name)
        if not parts:
            if not member.isdir():
                raise _Refused("has no name")
            return
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
                raise _Refused(f"is a link to an absolute path: {target}")
            inside = _lexically(())(target)
            target = os.path.relpath("/" + "/".join(inside), "/" + "/".join(place[0])) if inside is not None else target
        if _lexically(place[0])(target) is None:
            raise _Refused(f"is a link that leads out of it: {target}")
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
            raise _Refused(f"is a hard link to what is not there: {member.linkname}")
        if not stat.S_ISREG(status.st_mode):
            raise _Refused(f"is a hard link to what is no file: {member.linkname}")
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

    def _set_directory(self, place: Place, mode: int, time: float) -> None:
        status = self._writer.status(place)
        if status is None or not stat.S_ISDIR(status.st_mode):
            return  # something later took its place
        directory = self._writer.parent((*place[0], place[1]))
        os.fchmod(directory, mode)
        _set_time(directory, time)


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


def _set_time(file: int, time: float) -> None:
    # A time that the file system cannot hold is no reason to fail.
    with contextlib.suppress(OSError, OverflowError, ValueError):
        os.utime(file, (max(time, 0), max(time, 0)))


def _cancel_check() -> Callable[[], None]:
    try:
        trio.from_thread.check_cancelled()
    except RuntimeError:  # not in a thread of Trio's
        return lambda: None
    return trio.from_thread.check_cancelled


async def unpack(
    into: Path,
    archive: Path,
    what: str,
    limits: UnpackLimits,
    *,
    report: Callable[[int], None] = lambda count: None,
) -> None:
    """Unpack the file *archive* into the directory *into*, in a thread; see `Unpacker`.

    If everything is in one directory, and ``run.sh`` with it, that directory is left out.

    Raises:
        UnsafeArchive, ArchiveTooLarge, InstallFailed, OSError: As `Unpacker.unpack` does.

    Cancellation: ends soon; what was unpacked stays, for the caller to throw away.
    """

    def work() -> None:
        unpacker = Unpacker(into, what, limits, report=report)
        with archive.open("rb") as file:
            unpacker.unpack(file)
        unpacker.finish(lift=True)

    # A limiter of its own: threads that wait for something else must not hold it up.
    await trio.to_thread.run_sync(work, limiter=trio.CapacityLimiter(1))


def _lift_only_directory(into: Path) -> bool:
    """Put the content of the only directory in *into*, if ``run.sh`` is in it, in its place; tells whether it did."""
    entries = list(into.iterdir())
    if len(entries) != 1 or entries[0].is_symlink() or not (entries[0] / "run.sh").is_file():
        return False
    (only,) = entries
    # A name that nothing inside has: one of its members may be called as it is.
    aside = into / f".{os.urandom(8).hex()}"
    only.rename(aside)
    for entry in aside.iterdir():
        entry.rename(into / entry.name)
    aside.rmdir()
    return True
