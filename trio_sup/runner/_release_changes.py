"""What installing and upgrading from the command line have in common: how they are shown, and how they end."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any

import attrs
import trio

from .._releases import InstallPhase, InstallProgress, Release
from ..errors import TrioSupError
from ..gallery._installing import Installer
from ..gallery._staged import Staged
from ._gallery_session import reason
from ._install_display import Display
from ._release_words import called, document
from ._stderr import say


@attrs.define
class Changes:
    """Changes releases one after the other, and tells it.

    Attributes:
        display: Shows how far each has come.
        as_json: Whether results are told as JSON lines.
    """

    display: Display
    as_json: bool
    _downloaded: bool = attrs.field(default=False, init=False)
    _done: bool = attrs.field(default=False, init=False)

    def report(self, progress: InstallProgress) -> None:
        """To be told how far it has come."""
        self._downloaded |= progress.phase is InstallPhase.DOWNLOADING
        self.display.report(progress)

    @contextmanager
    def one(self, what: str) -> Iterator[None]:
        """One change: whatever ends it early is told, and goes on its way."""
        self._downloaded = self._done = False
        try:
            yield
        except trio.Cancelled:
            self.display.close()
            if self._done:
                raise
            told = f"{what} was not installed: interrupted"
            if self._downloaded:
                told += "; what was downloaded is kept for the next try"
            self._put_error(what, "Cancelled", told)
            say(told)
            raise
        except (TrioSupError, OSError) as error:
            self.display.close()
            if not isinstance(error, BrokenPipeError):
                self.fail(what, error)
            raise
        finally:
            self.display.close()

    async def put_in_place(self, installer: Installer, staging: AbstractAsyncContextManager[Staged]) -> None:
        """Do it, and tell what came of it."""
        release: Release | None = None
        replaced: Release | None = None
        holders: Sequence[str] = ()
        try:
            async with staging as staged:
                if staged.installed is None:
                    replaced = staged.replaces
                    holders = holders_of(installer, replaced)
                    release = await staged.commit()
        finally:
            # Whatever ends the tidying up that follows: it is in place.
            if release is not None:
                self._done = True
                self._tell_change(release, replaced, holders)
        if staged.installed is not None:
            self.display.close()
            self._tell(staged.installed, f"{called(staged.installed)} is installed already", changed=False)

    def _tell_change(self, release: Release, replaced: Release | None, holders: Sequence[str]) -> None:
        self.display.close()
        anew = f", in place of {called(replaced)}" if replaced is not None else ""
        self._tell(release, f"{called(release)} is installed{anew}: {release.directory}", replaced, holders)
        for holder in holders:
            say(f"{release.name} keeps running from the old release in {holder} until it is restarted there")

    def _tell(
        self,
        release: Release,
        text: str,
        replaced: Release | None = None,
        holders: Sequence[str] = (),
        *,
        changed: bool = True,
    ) -> None:
        if not self.as_json:
            print(text, flush=True)
            return
        self.put(
            {
                "type": "installed",
                "changed": changed,
                "release": document(release),
                "replaced": document(replaced) if replaced is not None else None,
                "old_in_use_by": list(holders),
            }
        )

    def fail(self, what: str | None, error: BaseException) -> None:
        """Tell programs why it failed; None is for all that was asked for."""
        self._put_error(what, type(error).__name__, reason(error))

    def _put_error(self, what: str | None, error: str, message: str) -> None:
        if self.as_json:
            self.put({"type": "error", "backend": what, "error": error, "message": message})

    @staticmethod
    def put(line: dict[str, Any]) -> None:
        """Write a line for programs."""
        print(json.dumps(line), flush=True)


def holders_of(installer: Installer, release: Release | None) -> Sequence[str]:
    """Who runs something from the files of *release*, for people."""
    if release is None or release.directory is None:
        return ()
    return [str(holder) for holder in installer.store.holders(release.directory)]


async def repair(installer: Installer) -> None:
    """Bring in order what an earlier process has left half done, and say so on stderr."""
    for done in await installer.repair():
        say(done)
