"""Copying a directory of this machine as a release."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import trio

from .._gallery_errors import ArchiveTooLarge, DownloadFailed, InstallFailed, UnsafeArchive
from .._releases import UnpackLimits
from ._links import check_links
from ._tree_writer import MOST_DEPTH, TreeWriter

CHUNK = 1024 * 1024
"""Bytes that are copied at once."""


async def copy_directory(
    into: Path,
    source: Path,
    what: str,
    limits: UnpackLimits,
    *,
    report: Callable[[int], None] = lambda count: None,
) -> None:
    """Copy what is in the directory *source* into the directory *into*, in a thread.

    Links stay links. Modes are kept, without what others might write and without set-user-id and the like; times are
    kept; owners and extended attributes, which may grant rights, are not.

    Args:
        what: What it is called in messages.
        report: Told now and then how many bytes are copied.

    Raises:
        DownloadFailed: There is no such directory, or something in it cannot be read.
        UnsafeArchive: Something in it is a device or the like, or a link that leads out.
        ArchiveTooLarge: It goes beyond the limits.
        InstallFailed: *into* is inside of it.
        OSError: The disk is full, and the like.

    Cancellation: ends soon; what was copied stays, for the caller to throw away.
    """
    copying = _Copying(into, source, what, limits, report)
    # A limiter of its own: threads that wait for something else must not hold it up.
    await trio.to_thread.run_sync(copying.run, limiter=trio.CapacityLimiter(1))


class _Copying:
    """One copy; runs in a thread."""

    def __init__(
        self, into: Path, source: Path, what: str, limits: UnpackLimits, report: Callable[[int], None]
    ) -> None:
        self._into = into
        self._source = source
        self._what = what
        self._limits = limits
        self._report = report
        self._members = self._bytes = 0
        self._links: list[tuple[tuple[str, ...], str, str]] = []
        self._directories: list[tuple[tuple[str, ...], os.stat_result]] = []

    def run(self) -> None:
        with self._reading(()):
            source = TreeWriter(self._source, links=False)
        try:
            if self._into.resolve().is_relative_to(self._source.resolve()):
                raise InstallFailed(self._what, "the releases are kept inside of it; a directory cannot hold itself")
            into = TreeWriter(self._into, links=False)
            try:
                self._copy_all(source, into)
            finally:
                into.close()
        finally:
            source.close()
        check_links(self._into, self._links, self._what, checkpoint=trio.from_thread.check_cancelled)

    def _copy_all(self, source: TreeWriter, into: TreeWriter) -> None:
        # A list instead of recursion: neither depth nor descriptors must run out.
        todo: list[tuple[str, ...]] = [()]
        while todo:
            parts = todo.pop()
            found: list[tuple[str, os.stat_result]] = []
            with self._reading(parts), source.opened(parts) as opened, os.scandir(opened) as entries:
                for entry in entries:
                    trio.from_thread.check_cancelled()
                    self._count_member()
                    found.append((entry.name, entry.stat(follow_symlinks=False)))
            with source.opened(parts) as opened:
                for name, status in sorted(found):
                    trio.from_thread.check_cancelled()
                    if self._copy_one(opened, parts, name, status, into):
                        todo.append((*parts, name))
        # Last: whatever is written into a directory changes its time.
        for parts, status in reversed(self._directories):
            directory = into.parent(parts)
            os.fchmod(directory, (stat.S_IMODE(status.st_mode) & 0o755) | 0o700)
            _set_times(directory, status)

    def _copy_one(
        self, opened: int, parts: tuple[str, ...], name: str, status: os.stat_result, into: TreeWriter
    ) -> bool:
        """Copy one entry; tells whether it is a directory, whose entries are to follow."""
        directory = into.parent(parts)
        if stat.S_ISDIR(status.st_mode):
            if len(parts) >= MOST_DEPTH:
                raise InstallFailed(self._what, f"it has more than {MOST_DEPTH} directories inside each other")
            os.mkdir(name, 0o700, dir_fd=directory)
            self._directories.append(((*parts, name), status))
            return True
        if stat.S_ISLNK(status.st_mode):
            with self._reading((*parts, name)):
                target = os.readlink(name, dir_fd=opened)
            os.symlink(target, name, dir_fd=directory)
            self._links.append((parts, name, target))
        elif stat.S_ISREG(status.st_mode):
            with self._reading((*parts, name)):
                # Without waiting: a pipe may have taken its place.
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                given = os.open(name, flags, dir_fd=opened)
            try:
                self._copy_file(given, (*parts, name), directory)
            finally:
                os.close(given)
        else:
            self._refuse((*parts, name))
        return False

    def _copy_file(self, given: int, path: tuple[str, ...], directory: int) -> None:
        status = os.fstat(given)
        if not stat.S_ISREG(status.st_mode):
            self._refuse(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(path[-1], flags, 0o600, dir_fd=directory)
        try:
            while True:
                trio.from_thread.check_cancelled()
                with self._reading(path):
                    data = os.read(given, CHUNK)
                if not data:
                    break
                self._count_bytes(len(data))
                view = memoryview(data)
                while view:
                    view = view[os.write(file, view) :]
            os.fchmod(file, (stat.S_IMODE(status.st_mode) & 0o755) | 0o600)
            _set_times(file, status)
        finally:
            os.close(file)

    def _count_member(self) -> None:
        self._members += 1
        if self._members > self._limits.max_files:
            raise ArchiveTooLarge(self._what, f"it has more than {self._limits.max_files} files (max_files)")

    def _count_bytes(self, count: int) -> None:
        self._bytes += count
        if self._bytes > self._limits.max_bytes:
            raise ArchiveTooLarge(self._what, f"it has more than {self._limits.max_bytes} bytes (max_bytes)")
        self._report(self._bytes)

    def _refuse(self, path: tuple[str, ...]) -> None:
        raise UnsafeArchive(self._what, "is neither a file nor a directory nor a link", member="/".join(path))

    @contextmanager
    def _reading(self, path: tuple[str, ...]) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not path and error.errno in (errno.ENOENT, errno.ENOTDIR):
                why = "there is no such directory"
            else:
                why = f"{'/'.join(path) or 'the directory'} cannot be read: {error.strerror}"
            raise DownloadFailed(self._what, why, temporary=False) from error


def _set_times(file: int, status: os.stat_result) -> None:
    with suppress(OSError):  # a time that the file system cannot hold is no reason to fail
        os.utime(file, ns=(status.st_mtime_ns, status.st_mtime_ns))
