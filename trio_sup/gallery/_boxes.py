"""Boxes: where an installation under way keeps its files, so that others see whether it still is under way."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

import attrs

from ._durable import sync_directory
from ._exchange import Exchange
from ._flocks import is_still, open_directory, try_flock
from ._swap import finish_swap, swap
from ._trash import Trash, unique_name

_TRIES = 100


@attrs.define(eq=False, kw_only=True)
class Box:
    """A directory of one installation, locked for as long as its process lives.

    Attributes:
        path: Where it is.
    """

    path: Path
    _opened: int
    _trash: Trash
    _exchange: Exchange

    def fresh(self, name: str) -> Path:
        """Make an empty directory called *name* in it; what was there under that name goes to the trash.

        Raises:
            OSError: It cannot be made.
        """
        place = self.path / name
        if os.path.lexists(place):
            self._trash.take(place)
        place.mkdir(mode=0o755)
        return place

    def put(self, name: str, live: Path) -> None:
        """Put what is called *name* in it in the place of *live*; see `swap`."""
        swap(self.path, name, live, by=self._exchange)

    def take_back(self, name: str, live: Path) -> None:
        """Undo a `put`.

        Raises:
            OSError: It cannot be undone.
        """
        if os.path.lexists(self.path / name):
            swap(self.path, name, live, by=self._exchange)
        else:
            live.rename(self.path / name)
            sync_directory(live.parent)

    def finish(self, releases: Path) -> str | None:
        """See `finish_swap`."""
        return finish_swap(self.path, releases)

    def close(self) -> None:
        """Give everything in it to the trash, and let go of it. What fails is left to the next repair."""
        with suppress(OSError):
            for path in self.path.iterdir():
                # Each by itself: one of them may be an old release that somebody still runs from.
                self._trash.take(path)
            self.path.rmdir()
        self.let_go()

    def let_go(self) -> None:
        """Leave it as it is, for the next repair."""
        # Said explicitly: a child being forked right now has a copy of the descriptor until it executes.
        with suppress(OSError):
            fcntl.flock(self._opened, fcntl.LOCK_UN)
        os.close(self._opened)


def make_box(work: Path, name: str, trash: Trash, exchange: Exchange) -> Box:
    """Make one below *work* for an installation of *name*.

    Raises:
        OSError: It cannot be made, or its file system has no locks.
    """
    for _ in range(_TRIES):
        path = work / unique_name(name)
        path.mkdir(mode=0o700)
        # A repair in another process may see it before it is locked, and take it for a leftover.
        box = adopt_box(path, trash, exchange)
        if box is not None:
            return box
    raise OSError(f"no directory that is made in {work} stays there")


def adopt_box(path: Path, trash: Trash, exchange: Exchange) -> Box | None:
    """Take over the box at *path* if nobody has it; None if somebody does, or it is gone.

    Raises:
        OSError: It cannot be opened or locked.
    """
    try:
        opened = open_directory(path)
    except FileNotFoundError:
        return None
    try:
        if try_flock(opened, fcntl.LOCK_EX) and is_still(path, opened):
            return Box(path=path, opened=opened, trash=trash, exchange=exchange)
    except BaseException:
        os.close(opened)
        raise
    os.close(opened)
    return None
