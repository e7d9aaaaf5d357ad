"""Installing, upgrading and deleting releases, all or nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import trio

from .._gallery_errors import UnknownEntry, UnknownRelease
from .._releases import InstallPhase, InstallProgress, Metadata, OnProgress, Release, UnpackLimits
from ..errors import InvalidValue, TrioSupError
from ..strategies import InstallLock
from ._catalogue import Catalogue
from ._deleting import delete
from ._identity import concrete_name, identity
from ._listing import Inventory
from ._obtaining import SourceOf
from ._planning import Plan, plan_for_address, plan_for_entry
from ._staged import Before, Staged
from ._staging import Staging
from ._store import Store
from ._upgrades import NewerNotTold, Upgrades, worth_asking
from ._upgrades import Upgrade as Upgrade
from ._uris import address_of

logger = logging.getLogger("trio_sup.gallery")


def _tell_nobody(progress: InstallProgress) -> None:
    pass


def _pass_over(certain: bool, release: Release, error: TrioSupError) -> None:
    if isinstance(error, NewerNotTold):
        return
    if certain:
        raise error
    logger.warning("whether there is a newer %s cannot be told: %s", release.name, error)


class Installer:
    """Installs what *catalogue* offers, and what addresses lead to, in *store*.

    Args:
        source_of: Gives the source for an address and its scheme; raises `UnknownSource` if there is none.
        lock: Keeps installations and launches apart. ``NAME~install`` is held, not shared, for a whole installation;
            ``NAME`` only for the exchange of files, and by launches, shared.
        require_integrity: Refuse what nothing proves to be what was meant.
        capability: Of this machine, for names that several releases have.
        now: A clock in seconds, for the rate of downloads.
    """

    def __init__(
        self,
        store: Store,
        *,
        source_of: SourceOf,
        catalogue: Catalogue,
        lock: InstallLock,
        require_integrity: bool = False,
        limits: UnpackLimits | None = None,
        capability: str = "default",
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self.catalogue = catalogue
        self._lock = lock
        self._capability = capability
        self._staging = Staging(
            store=store,
            source_of=source_of,
            lock=lock,
            require_integrity=require_integrity,
            limits=limits if limits is not None else UnpackLimits(),
            capability=capability,
            now=now,
        )
        self._upgrades = Upgrades(catalogue=catalogue, source_of=source_of)

    # ---- what is installed

    def installed(self) -> tuple[Release, ...]:
        """See `Store.releases`."""
        return self.store.releases(self._capability)

    def find(self, name: str, *, runnable: bool = True) -> Release:
        """The release that *name* means.

        Args:
            runnable: Whether it must be one that can be started.

        Raises:
            UnknownRelease: There is none.
            OSError: The directory of releases cannot be read.
        """
        release = self.store.find(name, self._capability)
        if runnable and not release.runnable:
            raise UnknownRelease(name, [each.name for each in self.installed() if each.runnable])
        return release

    def concrete(self, name: str) -> str:
        """The name of the release that has the files which *name* means; *name* itself if it is not installed."""
        return concrete_name(self._inventory(), name)

    def identity(self, name: str) -> frozenset[str]:
        """See `Store.identity`."""
        return identity(self._inventory(), name)

    def directory(self, name: str) -> Path | None:
        """Where the files are that *name* means; None if there are none."""
        release = self._inventory().get(name)
        return release.directory if release is not None else None

    def _inventory(self) -> Inventory:
        return self.store.inventory(self._capability)

    async def repair(self) -> Sequence[str]:
        """See `Store.repair`."""
        return await self.store.repair()

    # ---- installing

    @asynccontextmanager
    async def staged(
        self,
        what: str,
        *,
        name: str | None = None,
        alias: str | None = None,
        sha256: str | None = None,
        force: bool = False,
        report: OnProgress = _tell_nobody,
    ) -> AsyncIterator[Staged]:
        """Have what *what* means fetched, verified and unpacked beside what is live, for the length of the block.

        Leaving the block without `Staged.commit` leaves all as it was.

        Args:
            what: The name of a gallery's backend, or an address; see `address_of`.
            name: What to install it as; only with an address.
            alias: Another name that is to mean it; only with an address.
            sha256: Digest that what is fetched must have, in hex digits; only with an address.
            force: Fetch a gallery's backend although it is installed. What an address leads to always is, and so is
                one whose gallery is named, if what is installed came from elsewhere.
            report: Told, in Trio's thread, how far it has come. What it raises ends the installation.

        Raises:
            InvalidValue: A name, digest or address makes no sense.
            UnknownEntry, GalleryUnavailable: No gallery has it, or none could be asked.
            UnknownSource: No plugin fetches such addresses.
            NotProven: Integrity is required, and nothing proves it; nothing was written.
            InstallFailed: It could not be fetched, or must not be used.
            OSError: The directory of releases cannot be read.

        Cancellation: leaves nothing but what was downloaded, for the next time.
        """
        await trio.lowlevel.checkpoint()
        here = Path.cwd()
        address = address_of(what, here=here)
        if address is not None:
            plan = plan_for_address(address, name=name, alias=alias, sha256=sha256)
            force = True
        else:
            for given, value in (("name", name), ("alias", alias), ("sha256", sha256)):
                if value is not None:
                    raise InvalidValue(value, f"{given}: only for an address; {what!r} is a gallery's name for it")
            there = self._inventory().get(what)
            if there is not None and there.runnable and not force:
                yield Staged(installed=there, what=what, find=lambda: there)
                return
            report(InstallProgress(backend=what, phase=InstallPhase.RESOLVING))
            plan = await self._plan_for_name(what, here)
            force = force or ("@" in what and self._is_there_from_elsewhere(plan))
        async with self._staging.of(plan, anew=force, told=report, tell_done=True) as staged:
            yield staged

    @asynccontextmanager
    async def staged_upgrade(
        self, name: str, *, instead_of: Metadata | None = None, report: OnProgress = _tell_nobody
    ) -> AsyncIterator[Staged]:
        """As `staged`, for the newest of the installed release that *name* means, from where it came from.

        Args:
            instead_of: Of what is to be replaced; if somebody else has done that by then, it is not fetched.

        Raises:
            UnknownRelease: It is not installed.
            InvalidValue: It came with the machine.
            UnknownSource, GalleryUnavailable, InstallFailed: As for `staged`.
        """
        await trio.lowlevel.checkpoint()
        inventory = self._inventory()
        meant = self.store.find(name, self._capability)
        release = meant if meant.system else inventory.concrete(concrete_name(inventory, name))
        if release is None:
            raise UnknownRelease(name, [each.name for each in inventory.releases if each.runnable])
        report(InstallProgress(backend=release.name, phase=InstallPhase.RESOLVING))
        plan = await self._upgrades.plan_for(release)
        plan = attrs.evolve(plan, asked=meant.name)
        async with self._staging.of(plan, anew=True, instead_of=instead_of, told=report, tell_done=False) as staged:
            yield staged

    async def install(
        self,
        what: str,
        *,
        name: str | None = None,
        alias: str | None = None,
        sha256: str | None = None,
        force: bool = False,
        report: OnProgress = _tell_nobody,
    ) -> Release:
        """Install what *what* means; see `staged` for arguments, errors and cancellation."""
        async with self.staged(what, name=name, alias=alias, sha256=sha256, force=force, report=report) as staged:
            return await staged.commit()

    async def delete(self, name: str, *, before: Before | None = None) -> Release:
        """Delete the release that *name* means, with all metas that stand for it; one whose release is gone already,
        too. What was deleted lies in the trash until nobody runs from it.

        Args:
            before: Awaited when the exclusive install lock is held; what it raises leaves all as it was.

        Returns:
            What was installed.

        Raises:
            UnknownRelease: It is not installed.
            InvalidValue: It came with the machine.
            ReleaseInUse: Another process runs from it, or somebody does after *before*.
            OSError: It cannot be moved away; all is as it was.

        Cancellation: while it waits for the lock, nothing is changed; from *before* on it is finished.
        """
        release = await delete(
            name,
            self.store,
            lock=self._lock,
            capability=self._capability,
            before=before,
            waiting=lambda what: None,
        )
        await self._staging.sweep()
        return release

    async def upgrades(
        self,
        names: Collection[str] | None = None,
        *,
        unknown: Callable[[Release, TrioSupError], None] | None = None,
    ) -> Sequence[Upgrade]:
        """Which of the installed releases there are newer ones of, by version, else by digest.

        Not asked about is what came with the machine, and what has a twin under development beside it.

        Args:
            names: Any names of those that are asked about; None for all.
            unknown: Told of those of which it cannot be told whether there are newer ones, and why. By default one of
                *names* that cannot be asked about is an error, and the log has the others.

        Raises:
            UnknownRelease: One of *names* is not installed.
            GalleryUnavailable: No gallery can be read.
            DownloadFailed: As *unknown* says.

        Cancellation: changes nothing.
        """
        await trio.lowlevel.checkpoint()
        inventory = self._inventory()
        releases = worth_asking(inventory)
        if names is not None:
            wanted = {concrete_name(inventory, self.store.find(name, self._capability).name) for name in names}
            releases = [release for release in releases if release.name in wanted]
        return await self._upgrades.of(releases, unknown=unknown or partial(_pass_over, names is not None))

    # ---- the steps of an installation

    def _is_there_from_elsewhere(self, plan: Plan) -> bool:
        there = self._inventory().get(plan.asked)
        return there is not None and there.metadata.gallery_url != plan.record.gallery_url

    async def _plan_for_name(self, what: str, here: Path) -> Plan:
        try:
            found = await self.catalogue.find(what)
        except UnknownEntry as error:
            if (here / what).is_dir():
                error.why = f"{error.why + '; ' if error.why else ''}the directory of this name here is ./{what}"
            raise
        metas = (found.meta.name,) if found.meta is not None else ()
        return plan_for_entry(found.entry, metas, asked=metas[0] if metas else None)
