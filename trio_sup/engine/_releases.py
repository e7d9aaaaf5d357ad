"""The releases that backends run from: found, installed when they are missing, and held for as long as they run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import attrs
import trio

from .. import events
from .._gallery_errors import UnknownRelease
from .._releases import InstallProgress, Release
from ..gallery._installing import Installer
from ..gallery._store import Hold
from ._command import identity_of
from ._event_stream import EventHub

FINISH_TIMEOUT = 2.0
"""Seconds that the end of a supervisor may spend on removing what nobody runs from any more."""


@attrs.define(eq=False)
class _Held:
    hold: Hold
    users: int = 0


@attrs.define(eq=False, kw_only=True)
class Releases:
    """What launching needs of the store.

    Attributes:
        auto_install: Whether a release that is missing is installed when it is wanted.
    """

    installer: Installer
    auto_install: bool
    hub: EventHub
    _held: dict[tuple[int, int], _Held] = attrs.field(factory=dict, init=False)
    _freed: trio.Event = attrs.field(factory=trio.Event, init=False)

    @property
    def locks_dir(self) -> Path:
        """Where all who share the releases look for their install locks, unless another place was named."""
        return self.installer.store.locks_dir

    def find(self, name: str) -> Release:
        """The release that *name* means.

        Raises:
            UnknownRelease: It is not installed, or what it stands for is not.
        """
        return self.installer.find(name)

    async def ensure(self, name: str, waits_for: Callable[[str], None]) -> Release:
        """The release that *name* means, installed now if it is missing and that is allowed.

        Raises:
            UnknownRelease: It is not installed, and is not to be.
            UnknownEntry, GalleryUnavailable, InstallFailed, OSError: It could not be installed.

        Cancellation: ends the installation; nothing of it stays but what was downloaded.
        """
        try:
            return self.find(name)
        except UnknownRelease:
            if not self.auto_install:
                raise

        def report(progress: InstallProgress) -> None:
            self.tell(progress)
            waits_for(f"its installation: {progress.phase.value}")

        waits_for("its installation")
        async with self.installer.staged(name, report=report) as staged:
            if staged.installed is None:
                release = await staged.commit()
                self.hub.publish(events.ReleaseInstalled(release=release, replaced=staged.replaces))
        return self.find(name)

    def tell(self, progress: InstallProgress) -> None:
        """Make an event of it."""
        self.hub.publish(events.InstallProgressed(progress=progress))

    def hold(self, release: Release) -> Callable[[], None]:
        """Keep the files of *release* where they are; returns the function that lets go of them again.

        All who run from the same files share one descriptor.

        Raises:
            OSError: The directory cannot be opened.
        """
        assert release.directory is not None
        identity = identity_of(release.directory)
        held = self._held.get(identity) if identity is not None else None
        if held is None:
            held = _Held(self.installer.store.hold(release.directory))
            identity = held.hold.identity
            self._held[identity] = held
        held.users += 1
        let_go_of = identity
        assert let_go_of is not None

        def let_go() -> None:
            held.users -= 1
            if not held.users:
                self._held.pop(let_go_of, None)
                held.hold.close()
                self._freed.set()

        return let_go

    @trio.lowlevel.enable_ki_protection
    async def sweep_what_is_freed(self) -> None:
        """Remove replaced and deleted releases as soon as the last one who runs from them has ended; for ever.

        Cancellation: ends soon; the rest is for `finish`, or for the next supervisor.
        """
        while True:
            await self._freed.wait()
            self._freed = trio.Event()
            with suppress(RuntimeError):  # no thread can be started: what is there is for the next sweep
                await self.installer.store.sweep_trash()

    async def finish(self) -> None:
        """Remove what was freed by the last ones; bounded, since the next supervisor does the rest."""
        with trio.move_on_after(FINISH_TIMEOUT), suppress(RuntimeError):
            await self.installer.store.sweep_trash()
