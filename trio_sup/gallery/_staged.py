"""A release that is fetched, verified and unpacked, and not yet live."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import attrs
import trio

from .._gallery_errors import InstallFailed
from .._releases import Release
from ..strategies import InstallLock
from ._boxes import Box
from ._locking import locks_held

Before = Callable[[], Awaitable[None]]
"""What is done when the lock is held and nothing was touched yet; it stops what runs, and raises to give it up."""


@attrs.frozen
class Part:
    """A directory in a box, and where it is to be live."""

    name: str
    live: Path


@attrs.define(eq=False, kw_only=True)
class Staged:
    """What `Installer.staged` gives: what is there already, or what can be put in its place.

    Attributes:
        installed: The release, if there is nothing to do.
        replaces: What is installed under the name of the release that has the files; None if nothing is.
    """

    installed: Release | None = None
    replaces: Release | None = None
    _what: str
    _names: Sequence[str] = ()
    _parts: Sequence[Part] = ()
    _box: Box | None = None
    _lock: InstallLock | None = None
    _waiting: Callable[[str], None] = lambda what: None
    _find: Callable[[], Release]
    _done: Callable[[], None] = lambda: None
    committed: bool = attrs.field(default=False, init=False)

    async def commit(self, before: Before | None = None) -> Release:
        """Put it in the place of what is installed, under the exclusive install lock.

        Args:
            before: Awaited when the lock is held; what it raises gives the installation up, and leaves all as it was.

        Returns:
            What is installed now.

        Raises:
            InstallFailed: It cannot be put there; all is as it was.

        Cancellation: while it waits for the lock, nothing is changed; from `before` on it is finished.
        """
        await trio.lowlevel.checkpoint()
        if self.installed is not None or self._box is None or self._lock is None:
            assert self.installed is not None
            return self.installed
        if self.committed:
            raise RuntimeError("it is committed already")
        with trio.CancelScope() as finishing:
            async with locks_held(self._lock, self._names, waiting=self._waiting):
                finishing.shield = True
                if before is not None:
                    await before()
                await trio.to_thread.run_sync(self._put, self._box)
                self.committed = True
        self._done()
        return self._find()

    def _put(self, box: Box) -> None:
        done: list[Part] = []
        try:
            for part in self._parts:
                box.put(part.name, part.live)
                done.append(part)
        except OSError as error:
            why = why_unmovable(error, part.live)
            for put in reversed(done):
                try:
                    box.take_back(put.name, put.live)
                except OSError as second:
                    why += f". And what was at {put.live} could not be put back: {second.strerror}"
            raise InstallFailed(self._what, why) from error


def why_unmovable(error: OSError, live: Path) -> str:
    """In words, why what is at *live* cannot be moved away."""
    if error.errno == errno.EXDEV:
        return (
            f"{live} cannot be moved: it is on another file system than what is around it, or in a lower layer of an "
            "overlay, as what came with the image of a container is. Remove it by hand, or use another backends_dir"
        )
    if error.errno == errno.EBUSY:
        return f"{live} cannot be moved: a file system is mounted there"
    return f"{live} cannot be moved: {error.strerror}"
