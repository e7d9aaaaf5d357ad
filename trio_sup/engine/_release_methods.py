"""What a supervisor can do with releases: list, install, upgrade, delete."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import trio

from .._gallery_errors import NoGalleries
from .._releases import AfterUpgrade, Deleted, OnProgress, Release, Upgraded
from ..errors import InvalidValue
from ..gallery._catalogue import Catalogue
from ..gallery._installing import Upgrade
from ._release_changes import ReleaseChanges


class ReleaseMethods:
    """The part of [`Supervisor`][trio_sup.Supervisor] that needs its `galleries`."""

    def __init__(self, changes: ReleaseChanges | None) -> None:
        self._release_changes = changes

    @property
    def _changes(self) -> ReleaseChanges:
        if self._release_changes is None:
            raise NoGalleries
        return self._release_changes

    @property
    def catalogue(self) -> Catalogue:
        """What the galleries have.

        Raises:
            NoGalleries: The supervisor was given none.
        """
        return self._changes.installer.catalogue

    def installed(self) -> tuple[Release, ...]:
        """Every release by every name that means it, sorted by name; one that is broken says so in its `problem`.

        Raises:
            NoGalleries: The supervisor was given none.
            OSError: The directory of releases cannot be read.
        """
        return self._changes.installer.installed()

    async def install(
        self,
        what: str,
        *,
        name: str | None = None,
        alias: str | None = None,
        sha256: str | None = None,
        force: bool = False,
        on_progress: OnProgress | None = None,
    ) -> Release:
        """Install a backend, all or nothing.

        What runs goes on undisturbed from the files that it was started from; it is started from the new ones the next
        time.

        Args:
            what: The name of a gallery's backend (``"llama-cpp"``, ``"localai@llama-cpp"``), or the address of one: a
                directory, an archive (``file://``, ``https://``, …), or what else a plugin fetches.
            name: What to install it as; only with an address, which may lead to a name by itself.
            alias: Another name that is to mean it; only with an address.
            sha256: Digest that what is fetched must have, in hex digits; only with an address.
            force: Fetch it although it is installed already.
            on_progress: Told how far it has come; must be quick.

        Returns:
            What is installed now; at once, if it was already.

        Raises:
            InvalidValue: A name or digest makes no sense.
            UnknownEntry, GalleryUnavailable: No gallery has it, or none could be asked.
            UnknownSource: No plugin fetches such addresses.
            InstallFailed: It could not be fetched, or must not be used; nothing was changed.
            NoGalleries: The supervisor was given none.
            SupervisorClosed: The supervisor ends.

        Cancellation: returns at once. What was downloaded is kept for the next try; nothing else of it stays.
        """
        return await self._changes.install(
            what, name=name, alias=alias, sha256=sha256, force=force, on_progress=on_progress
        )

    async def upgrades(self) -> Sequence[Upgrade]:
        """Which of the installed releases the galleries, or where else they came from, have newer ones of.

        Raises:
            NoGalleries: The supervisor was given none.

        Cancellation: changes nothing.
        """
        return await self._changes.installer.upgrades()

    async def upgrade(
        self,
        name: str,
        *,
        then: AfterUpgrade = "restart",
        force: bool = False,
        on_progress: OnProgress | None = None,
    ) -> Upgraded | None:
        """Replace a release by the newest one, and have what runs from it run from the new one.

        The new one is fetched and verified first: a failure there stops nothing.

        Args:
            name: Any name of the release.
            then: ``"restart"`` ends what runs from it, in parallel, replaces the files, and starts it again;
                ``"rolling"`` replaces the files and then restarts one after the other, up to the first that does not
                become ready; ``"stop"`` stops what runs, and leaves it so.
            force: Replace it although nothing newer is known.
            on_progress: Told how far it has come; must be quick.

        Returns:
            What it did; None if there is nothing newer.

        Raises:
            UnknownRelease: It is not installed.
            InstallFailed: The new one could not be fetched, or must not be used; nothing was changed.
            StopFailed: Something that ran could not be ended; the old release stays, and what was ended is started
                again unless it was to be stopped.
            InvalidValue, UnknownEntry, GalleryUnavailable, UnknownSource, NoGalleries, SupervisorClosed: As with
                `install`.

        Cancellation: returns at once. Before anything is stopped it gives the upgrade up; later the upgrade is
            finished, though not waited for.
        """
        if then not in get_args(AfterUpgrade):
            raise InvalidValue(then, f"then: expected one of {', '.join(map(repr, get_args(AfterUpgrade)))}")
        await trio.lowlevel.checkpoint_if_cancelled()
        return await self._changes.upgrade(name, then=then, force=force, on_progress=on_progress)

    async def delete(self, name: str) -> Deleted:
        """Stop whatever runs from a release, by whichever of its names, and delete it.

        Args:
            name: Any name of the release; a meta takes with it what it stands for.

        Returns:
            What was deleted, and which backends were stopped for it.

        Raises:
            UnknownRelease: It is not installed.
            StopFailed: Something that ran could not be ended; no file was touched.
            ReleaseInUse: It runs under another supervisor; nothing was changed.
            InvalidValue: It came with the machine.
            NoGalleries, SupervisorClosed: As with `install`.

        Cancellation: returns at once. Once something is being stopped, the deletion is finished all the same.
        """
        return await self._changes.delete(name)
