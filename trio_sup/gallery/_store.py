"""Releases on disk: where they are, what is installed, and who runs from it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path

import attrs

from .._gallery_errors import UnknownRelease
from .._releases import Release
from . import _identity
from ._boxes import Box, make_box
from ._capability import alias_preference
from ._exchange import Exchange, exchange
from ._flocks import Holder, holders_of, is_still, open_directory, try_flock
from ._listing import Inventory, take_inventory
from ._repair import Repair
from ._scratch import Scratch, discard_scratch, scratch_for
from ._trash import Trash

OWN = ".trio-sup"
"""What is ours among the releases; listings leave out what begins with a dot."""


_TRIES = 1000


@attrs.define(eq=False)
class Hold:
    """Keeps the files of a release where they are, for one who runs from them, until it is closed.

    Attributes:
        identity: Device and inode of the directory; it keeps them wherever it is moved.
    """

    identity: tuple[int, int]
    _opened: int | None

    def close(self) -> None:
        """Let go of them. What was kept only for this holder goes with the next `Store.sweep_trash`."""
        if self._opened is None:
            return
        opened, self._opened = self._opened, None
        # Said explicitly: a child being forked right now has a copy of the descriptor until it executes.
        with suppress(OSError):
            fcntl.flock(opened, fcntl.LOCK_UN)
        os.close(opened)

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()


class Store:
    """The releases below *backends_dir*, laid out as LocalAI lays them out, and those that came with the machine.

    Several processes may work on one store. It is made when something is installed.

    Args:
        system_dir: Releases that came with the machine: used, never changed.
        by: How two directories are exchanged; see `exchange`.
    """

    def __init__(self, backends_dir: Path, *, system_dir: Path | None = None, by: Exchange = exchange) -> None:
        # Whoever changes the working directory does not move the releases.
        self.backends_dir = Path(backends_dir).absolute()
        self.system_dir = Path(system_dir).absolute() if system_dir is not None else None
        self.trash = Trash(self._own / "trash")
        self.exchange = by

    @property
    def _own(self) -> Path:
        return self.backends_dir / OWN

    @property
    def locks_dir(self) -> Path:
        """For the install locks of all who share these releases."""
        return self._own / "locks"

    @property
    def cache_dir(self) -> Path:
        """For copies of galleries' indexes."""
        return self._own / "cache"

    @property
    def work_dir(self) -> Path:
        """For installations that are under way."""
        return self._own / "work"

    @property
    def downloads_dir(self) -> Path:
        """For downloads that are under way, or were broken off."""
        return self._own / "downloads"

    def path_of(self, name: str) -> Path:
        """Where a release of this name is, or would be."""
        return self.backends_dir / name

    def make_directories(self) -> None:
        """Make what is missing of the store; what is ours in it, nobody else may enter.

        Raises:
            OSError: It cannot be made.
        """
        self.backends_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._own.mkdir(mode=0o700, exist_ok=True)
        if self._own.stat().st_mode & 0o077:
            self._own.chmod(0o700)
        for directory in (self.work_dir, self.downloads_dir, self.trash.directory, self.locks_dir):
            directory.mkdir(mode=0o700, exist_ok=True)

    # ---- what is installed

    def inventory(self, capability: str = "default") -> Inventory:
        """Look what is installed, for a machine of this capability.

        Raises:
            OSError: A directory is there and cannot be read.
        """
        return take_inventory(self.backends_dir, self.system_dir, prefer=alias_preference(capability))

    def releases(self, capability: str = "default") -> tuple[Release, ...]:
        """Every release by every name that means it, sorted by name; a broken one says so in its `problem`.

        Raises:
            OSError: A directory is there and cannot be read.
        """
        return self.inventory(capability).releases

    def find(self, name: str, capability: str = "default") -> Release:
        """The release that *name* means, whether it can be run or not.

        Raises:
            UnknownRelease: There is none.
            OSError: A directory is there and cannot be read.
        """
        inventory = self.inventory(capability)
        release = inventory.get(name)
        if release is None:
            raise UnknownRelease(name, [each.name for each in inventory.releases])
        return release

    def identity(self, name: str, capability: str = "default") -> frozenset[str]:
        """All names that mean what *name* means, over aliases and metas both ways, itself included.

        Raises:
            OSError: A directory is there and cannot be read.
        """
        return _identity.identity(self.inventory(capability), name)

    # ---- who uses it

    def hold(self, directory: Path) -> Hold:
        """Keep the files in *directory* for one who runs from them, whatever is installed in their place.

        Raises:
            OSError: It cannot be opened, or is being deleted.
        """
        for _ in range(_TRIES):
            opened = open_directory(directory)
            try:
                status = os.fstat(opened)
                # If it is not ours, it was replaced since it was opened, and may even be on its way out of the trash.
                if try_flock(opened, fcntl.LOCK_SH) and is_still(directory, opened):
                    return Hold((status.st_dev, status.st_ino), opened)
            except BaseException:
                os.close(opened)
                raise
            os.close(opened)
            os.sched_yield()
        raise BlockingIOError(f"{directory} is being deleted")

    def holders(self, directory: Path) -> Sequence[Holder]:
        """Who runs from *directory*, as far as that can be seen; written as text: ``trio-sup (pid 123)``."""
        try:
            opened = open_directory(directory)
        except OSError:
            return ()
        try:
            return holders_of(opened)
        finally:
            os.close(opened)

    def is_held(self, directory: Path) -> bool:
        """Whether anybody runs from *directory*, seen or unseen.

        Raises:
            OSError: It cannot be opened.
        """
        opened = open_directory(directory)
        try:
            return not try_flock(opened, fcntl.LOCK_EX)
        finally:
            os.close(opened)

    # ---- how it is changed

    def make_box(self, name: str) -> Box:
        """A place for an installation of *name*; to be closed.

        Raises:
            OSError: It cannot be made.
        """
        return make_box(self.work_dir, name, self.trash, self.exchange)

    def scratch(self, uri: str, *, waiting: Callable[[str], None]) -> AbstractAsyncContextManager[Scratch]:
        """The directory for downloads from *uri*; see `scratch_for`."""
        return scratch_for(uri, self.downloads_dir, self.trash, waiting=waiting)

    def discard_scratch(self, uri: str) -> None:
        """Throw away what was downloaded from *uri*, unless somebody is downloading there now."""
        discard_scratch(uri, self.downloads_dir, self.trash)

    async def sweep_trash(self) -> Sequence[str]:
        """Remove what was replaced or deleted and nobody runs from any more.

        Returns:
            What could not be removed, and why.

        Cancellation: ends soon; the rest is for the next sweep.
        """
        return await self.trash.sweep()

    async def repair(self) -> Sequence[str]:
        """Finish or take back what an earlier process left half done, LocalAI's included, and sweep.

        What another process is at work on is left to it.

        Returns:
            What was done, in words.

        Raises:
            OSError: A directory is there and cannot be read.

        Cancellation: ends soon; the rest is for the next repair.
        """
        return await Repair(
            backends_dir=self.backends_dir,
            work=self.work_dir,
            downloads=self.downloads_dir,
            trash=self.trash,
            exchange=self.exchange,
        ).run()
