"""Writing below one directory, and nowhere else, whatever links lie in the way."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator, Sequence

MOST_LINKS = 40
"""Links that one path may lead through. Source: the limit of Linux itself, path_resolution(7)."""
MOST_DEPTH = 256
"""Directories inside each other; each of them is opened for every entry below."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class LeadsOut(Exception):
    """A path leads out of the directory, or through what it must not; its text says how, for people."""


class TreeWriter:
    """Makes entries below *root*; every path is given by its parts, none of which is ``..``.

    Directories are opened one by one, and links are never followed by the system: with *links* they are resolved here,
    as if *root* were the root of the file system; without, a path must not lead through one.
    """

    def __init__(self, root: str | os.PathLike[str], *, links: bool) -> None:
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._links = links
        self._parent: tuple[tuple[str, ...], int] | None = None  # the last one that was opened

    def close(self) -> None:
        self._forget_parent()
        os.close(self._root)

    def _forget_parent(self) -> None:
        if self._parent is not None:
            os.close(self._parent[1])
            self._parent = None

    def place(self, parts: Sequence[str]) -> tuple[tuple[str, ...], str]:
        """Where an entry of that path really is: the parts of its directory, free of links, and its name."""
        return self._resolved(tuple(parts[:-1])), parts[-1]

    def _resolved(self, parts: tuple[str, ...]) -> tuple[str, ...]:
        if self._parent is not None and self._parent[0] == parts:
            return parts
        done: list[str] = []
        todo = list(reversed(parts))
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                if not done:
                    raise LeadsOut("leads out of the directory through a link")
                done.pop()
                continue
            target = self._link((*done, part))
            if target is None:
                done.append(part)
                if len(done) > MOST_DEPTH:
                    raise LeadsOut(f"lies in more than {MOST_DEPTH} directories")
                continue
            if not self._links:
                raise LeadsOut("lies behind a link")
            links += 1
            if links > MOST_LINKS:
                raise LeadsOut("lies behind too many links")
            if target.startswith("/"):
                done.clear()
            todo += [each for each in reversed(target.split("/")) if each not in ("", ".")]
        return tuple(done)

    def _link(self, parts: tuple[str, ...]) -> str | None:
        """Where the link at *parts*, in a directory free of links, points to; None if there is none."""
        try:
            with self.opened(parts[:-1]) as directory:
                return os.readlink(parts[-1], dir_fd=directory)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT, errno.ENOTDIR):
                return None
            raise

    @contextlib.contextmanager
    def opened(self, parts: Sequence[str]) -> Iterator[int]:
        """A descriptor of the directory at *parts*, which are free of links."""
        directory = os.dup(self._root)
        try:
            for part in parts:
                inner = os.open(part, _DIRECTORY, dir_fd=directory)
                os.close(directory)
                directory = inner
            yield directory
        finally:
            os.close(directory)

    def parent(self, parts: tuple[str, ...]) -> int:
        """A descriptor of the directory at *parts*, which are free of links; made if need be, and ours until the next.

        Raises:
            LeadsOut: Something else than a directory is in the way.
        """
        if self._parent is not None and self._parent[0] == parts:
            return self._parent[1]
        directory = os.dup(self._root)
        try:
            for part in parts:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=directory)
                try:
                    inner = os.open(part, _DIRECTORY, dir_fd=directory)
                except OSError as error:
                    if error.errno in (errno.ENOTDIR, errno.ELOOP):
                        raise LeadsOut("lies below what is no directory") from error
                    raise
                os.close(directory)
                directory = inner
        except BaseException:
            os.close(directory)
            raise
        self._forget_parent()
        self._parent = parts, directory
        return directory

    def status(self, place: tuple[tuple[str, ...], str]) -> os.stat_result | None:
        """What is at *place* itself; None if nothing is."""
        try:
            with self.opened(place[0]) as directory:
                return os.stat(place[1], dir_fd=directory, follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return None
            raise

    def names(self, parts: Sequence[str]) -> list[str]:
        """What is in the directory at *parts*, free of links; nothing if it is none."""
        try:
            with self.opened(parts) as directory:
                return os.listdir(directory)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return []
            raise

    def remove(self, place: tuple[tuple[str, ...], str]) -> None:
        """Take away what is at *place*, a whole directory if it is one."""
        status = self.status(place)
        if status is None:
            return
        self._forget_parent()
        with self.opened(place[0]) as directory:
            if stat.S_ISDIR(status.st_mode):
                shutil.rmtree(place[1], dir_fd=directory)
            else:
                os.unlink(place[1], dir_fd=directory)

    def reaches(self, parts: Sequence[str], target: str) -> bool:
        """Whether a link in the directory at *parts*, free of links, that points to *target* stays inside.

        It is followed as the system would follow it, through whatever other links are there.
        """
        if target.startswith("/"):
            return False
        done, todo = list(parts), [part for part in reversed(target.split("/")) if part not in ("", ".")]
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                if not done:
                    return False
                done.pop()
                continue
            inner = self._link((*done, part))
            if inner is None:
                done.append(part)
                continue
            links += 1
            if links > MOST_LINKS:
                return True  # a loop: it leads nowhere
            if inner.startswith("/"):
                return False
            todo += [each for each in reversed(inner.split("/")) if each not in ("", ".")]
        return True
