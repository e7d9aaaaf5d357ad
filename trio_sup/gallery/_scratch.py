"""Directories for what is being downloaded: one per address, kept until it is installed or no longer wanted."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import attrs
import trio

from ._flocks import holders_of, is_still, open_directory, try_flock
from ._trash import Trash

FIRST_WAIT, LONGEST_WAIT = 0.01, 0.2
"""Seconds between two tries while somebody else downloads the same; the wait grows from the one to the other."""


@attrs.define(eq=False)
class Scratch:
    """The directory of one address, in our hands."""

    path: Path
    _trash: Trash

    def discard(self) -> None:
        """Throw away what is in it, since it is installed, or is not what was meant."""
        with suppress(OSError):  # what stays is swept when it is old
            self._trash.take(self.path)


@asynccontextmanager
async def scratch_for(
    uri: str, downloads: Path, trash: Trash, *, waiting: Callable[[str], None]
) -> AsyncIterator[Scratch]:
    """Have the directory for *uri* alone for the length of the block.

    Args:
        waiting: Told now and then who has it, while it is somebody else's.

    Raises:
        OSError: It cannot be made.

    Cancellation: a wait that is cancelled leaves nothing but the directory.
    """
    path = _path_for(uri, downloads)
    opened = await _have(path, waiting)
    try:
        yield Scratch(path, trash)
    finally:
        with suppress(OSError):
            path.rmdir()  # unless something is in it
        # Said explicitly: a child being forked right now has a copy of the descriptor until it executes.
        with suppress(OSError):
            fcntl.flock(opened, fcntl.LOCK_UN)
        os.close(opened)


def discard_scratch(uri: str, downloads: Path, trash: Trash) -> None:
    """Throw away what was downloaded from *uri*, unless somebody has it now."""
    path = _path_for(uri, downloads)
    with suppress(OSError):
        opened = open_directory(path)
        try:
            if try_flock(opened, fcntl.LOCK_EX) and is_still(path, opened):
                trash.take(path)
        finally:
            os.close(opened)


def _path_for(uri: str, downloads: Path) -> Path:
    return downloads / hashlib.sha256(uri.encode(errors="surrogateescape")).hexdigest()


def _make(path: Path) -> int:
    path.mkdir(mode=0o700, exist_ok=True)
    return open_directory(path)


async def _have(path: Path, waiting: Callable[[str], None]) -> int:
    wait = FIRST_WAIT
    while True:
        await trio.lowlevel.checkpoint()
        try:
            opened = _make(path)
        except FileNotFoundError:
            continue  # it has just been thrown away
        try:
            while not try_flock(opened, fcntl.LOCK_EX):
                waiting(f"the same download by {', '.join(map(str, holders_of(opened))) or 'another process'}")
                await trio.sleep(wait)
                wait = min(wait * 1.5, LONGEST_WAIT)
            if is_still(path, opened):
                os.utime(opened)  # its age counts from its last use
                return opened
        except BaseException:
            os.close(opened)
            raise
        os.close(opened)
