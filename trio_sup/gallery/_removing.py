"""Removing whole directories, whatever is in them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence

import attrs

_FLAGS = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def empty_directory(opened: int, *, checkpoint: Callable[[], None]) -> Sequence[str]:
    """Remove everything in the open directory.

    Links are removed, never followed; read-only directories are no hindrance to their owner; and no depth is too
    great, since directories are first brought up into the topmost one.

    Args:
        checkpoint: Called often; may raise to stop. What is left then can be gone on with later.

    Returns:
        What could not be removed, and why.
    """
    return _Removal(opened, checkpoint).run()


@attrs.define(eq=False)
class _Removal:
    top: int
    checkpoint: Callable[[], None]
    _problems: dict[str, None] = attrs.field(factory=dict, init=False)
    _numbers: Iterator[int] = attrs.field(factory=itertools.count, init=False)

    def run(self) -> Sequence[str]:
        os.fchmod(self.top, 0o700)
        directories = self._remove_files(self.top)
        while directories:
            stuck = 0
            for name in directories:
                self.checkpoint()
                try:
                    self._bring_up(name)
                    os.rmdir(name, dir_fd=self.top)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    self._note(name, error)
                    stuck += 1
            if stuck == len(directories):
                break
            directories = self._remove_files(self.top)
        return tuple(self._problems)

    def _remove_files(self, directory: int) -> list[str]:
        """Remove what is no directory in *directory*; returns the names of those that are."""
        with os.scandir(directory) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for name, is_directory in found:
            if is_directory:
                continue
            self.checkpoint()
            try:
                os.unlink(name, dir_fd=directory)
            except FileNotFoundError:
                pass
            except OSError as error:
                self._note(name, error)
        return [name for name, is_directory in found if is_directory]

    def _bring_up(self, name: str) -> None:
        """Remove the files of the directory *name* in the topmost one, and move its directories there."""
        opened = _open_usable(name, self.top)
        try:
            for inner in self._remove_files(opened):
                self.checkpoint()
                # Its ".." changes when it is moved, so it must be writable itself.
                os.close(_open_usable(inner, opened))
                os.rename(inner, self._free_name(), src_dir_fd=opened, dst_dir_fd=self.top)
        finally:
            os.close(opened)

    def _free_name(self) -> str:
        while True:
            name = f".{next(self._numbers)}"
            try:
                os.stat(name, dir_fd=self.top, follow_symlinks=False)
            except FileNotFoundError:
                return name

    def _note(self, name: str, error: OSError) -> None:
        self._problems[f"{name}: {error.strerror}"] = None


def _open_usable(name: str, directory: int) -> int:
    """Open the directory *name* in *directory*, when it can be written to and searched."""
    try:
        opened = os.open(name, os.O_RDONLY | _FLAGS, dir_fd=directory)
    except PermissionError:
        # One that may not be read can only be changed by its name; this is a way to it that follows no link.
        place = os.open(name, os.O_PATH | _FLAGS, dir_fd=directory)
        try:
            os.chmod(f"/proc/self/fd/{place}", 0o700)
        finally:
            os.close(place)
        return os.open(name, os.O_RDONLY | _FLAGS, dir_fd=directory)
    try:
        if os.fstat(opened).st_mode & 0o700 != 0o700:
            os.fchmod(opened, 0o700)
    except BaseException:
        os.close(opened)
        raise
    return opened
