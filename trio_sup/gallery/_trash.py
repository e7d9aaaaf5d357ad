"""What was replaced or deleted, until nobody uses it any more."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

import attrs
import trio

from ._flocks import is_still, open_directory, try_flock
from ._removing import empty_directory


def unique_name(name: str) -> str:
    """A name that nobody else chooses, which begins with *name*."""
    return f"{name[:128]}-{secrets.token_hex(6)}"


@attrs.define(eq=False)
class Trash:
    """A directory for what is to be removed, on the same file system as what it is to take.

    A directory in it stays for as long as somebody holds a lock on it, as whoever runs from a release does.
    """

    directory: Path
    _limiter: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(1), init=False)

    def take(self, path: Path) -> Path:
        """Move what stands at *path* here, in one step; returns where it is now.

        Raises:
            OSError: It cannot be moved.
        """
        place = self.directory / unique_name(path.name)
        path.rename(place)
        return place

    async def sweep(self) -> Sequence[str]:
        """Remove what nobody uses, in a thread.

        Returns:
            What could not be removed, and why.

        Cancellation: ends soon; the rest is for the next sweep.
        """
        return await trio.to_thread.run_sync(self._sweep, limiter=self._limiter)

    def _sweep(self) -> Sequence[str]:
        try:
            found = sorted(self.directory.iterdir())
        except FileNotFoundError:
            return ()
        except OSError as error:
            return (f"{self.directory} cannot be read: {error.strerror}",)
        problems: list[str] = []
        for path in found:
            trio.from_thread.check_cancelled()
            try:
                problems += self._remove(path)
            except FileNotFoundError:
                continue  # somebody else sweeps as well
            except OSError as error:
                problems.append(f"{path} cannot be removed: {error.strerror}")
        return tuple(problems)

    def _remove(self, path: Path) -> Sequence[str]:
        if path.is_symlink() or not path.is_dir():
            path.unlink()
            return ()
        try:
            opened = open_directory(path)
        except PermissionError:
            path.chmod(0o700)  # no link, as has just been seen, and only we write here
            opened = open_directory(path)
        try:
            if not try_flock(opened, fcntl.LOCK_EX) or not is_still(path, opened):
                return ()
            problems = [
                f"{path}/{problem}" for problem in empty_directory(opened, checkpoint=trio.from_thread.check_cancelled)
            ]
            if not problems:
                os.rmdir(path)
            return problems
        finally:
            os.close(opened)
