"""Which installed releases there are newer ones of, and where those come from. Source: spec 7.9."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import attrs
import trio

from .._gallery_errors import DownloadFailed, GalleryUnavailable, InstallFailed
from .._releases import Metadata, Release
from ..errors import InvalidValue, TrioSupError
from ._addresses import shown
from ._catalogue import Catalogue
from ._index import DEVELOPMENT, IndexEntry
from ._listing import Inventory
from ._obtaining import SourceOf
from ._planning import Plan, plan_for_address, plan_for_entry
from ._uris import address_of, in_words

AT_ONCE = 8
"""Sources that are asked at the same time."""


@attrs.frozen(kw_only=True)
class Upgrade:
    """There is a newer one of a release.

    Attributes:
        release: What is installed.
        entry: What the gallery has; None for one that was installed from an address.
        why: How it is known, in words.
    """

    release: Release
    entry: IndexEntry | None
    why: str

    def __str__(self) -> str:
        return f"{self.release.name}: {self.why}"


@attrs.define(slots=False, eq=False)
class NewerNotTold(TrioSupError):
    """Where a release came from nobody tells whether there is a newer one."""

    what: str

    def __str__(self) -> str:
        return f"{self.what} does not tell whether there is a newer one; install it from there anew"


@attrs.frozen
class Verdict:
    """What the versions tell.

    Attributes:
        why: Why there is a newer one; None if there is none.
        ask: They tell nothing; the digests must be compared.
    """

    why: str | None = None
    ask: bool = False


def by_version(installed: Metadata, entry: IndexEntry | None) -> Verdict:
    """Compare what is installed with what the gallery has, without asking anybody."""
    offered = entry.version if entry is not None else None
    if offered is not None and installed.version is not None:
        different = offered != installed.version
        return Verdict(f"version {offered} instead of {installed.version}" if different else None)
    if offered is not None:
        return Verdict(f"version {offered}; which one is installed was not recorded")
    if installed.version is not None:
        return Verdict()  # its gallery has no versions any more
    return Verdict(ask=True)


def by_digest(installed: str | None, offered: str | None) -> str | None:
    """Why there is a newer one, by what its address means now; None if there is none, or that cannot be told."""
    if offered is None or offered == installed:
        return None
    if installed is None:
        return "which build is installed was not recorded"
    return f"{offered[:19]}… instead of {installed[:19]}…"


def worth_asking(inventory: Inventory) -> list[Release]:
    """Those that can be upgraded at all: one for all names of the same files; not what came with the machine, and not
    what has a twin under development beside it."""
    return [
        release
        for release in inventory.releases
        if release.kind == "concrete" and not release.system and inventory.concrete(release.name + DEVELOPMENT) is None
    ]


@attrs.frozen(kw_only=True)
class Upgrades:
    """Finds newer releases."""

    catalogue: Catalogue
    source_of: SourceOf

    async def of(
        self, releases: Sequence[Release], *, unknown: Callable[[Release, TrioSupError], None]
    ) -> Sequence[Upgrade]:
        """Those of *releases* that there are newer ones of, in their order.

        Args:
            unknown: Told of each of which that cannot be told, and why; one after the other, at the end. What it
                raises goes on its way.

        Raises:
            GalleryUnavailable: No gallery can be read.

        Cancellation: changes nothing.
        """
        found: dict[str, Upgrade] = {}
        failures: dict[str, TrioSupError] = {}
        limiter = trio.CapacityLimiter(AT_ONCE)
        if any(_is_of_a_gallery(release) for release in releases):
            # Whoever asks for what is new means now; where that cannot be had, an earlier copy has to do.
            with suppress(GalleryUnavailable):
                await self.catalogue.entries(refresh=True)
        entries = {release.name: await self.entry_for(release) for release in releases}

        async def look(release: Release) -> None:
            async with limiter:
                try:
                    why = await self._why(release.metadata, entries[release.name])
                except TrioSupError as error:
                    failures[release.name] = error
                else:
                    if why is not None:
                        found[release.name] = Upgrade(release=release, entry=entries[release.name], why=why)

        async with trio.open_nursery() as nursery:
            for release in releases:
                nursery.start_soon(look, release, name=f"is there a newer {release.name}")
        for release in releases:
            if release.name in failures:
                unknown(release, failures[release.name])
        return tuple(found[release.name] for release in releases if release.name in found)

    async def _why(self, installed: Metadata, entry: IndexEntry | None) -> str | None:
        verdict = by_version(installed, entry)
        if not verdict.ask:
            return verdict.why
        places = _places(installed, entry)
        failed: Exception | None = None
        for place in places:
            try:
                address = address_of(place)
                if address is None:
                    continue
                if entry is not None and entry.sha256 and address.scheme != "oci":
                    return by_digest(installed.digest, f"sha256:{entry.sha256}")
                offered = await self.source_of(address.uri, address.scheme).digest(address.uri)
                if offered is None:
                    raise NewerNotTold(in_words(address.uri))
                if not isinstance(offered, str):
                    raise TypeError(f"digest() returned {offered!r}")
                return by_digest(installed.digest, offered)
            except (TrioSupError, OSError) as error:
                failed = error
            except Exception as error:
                failed = DownloadFailed(in_words(place), f"its source failed with {type(error).__name__}: {error}")
                failed.__cause__ = error
        if failed is not None:
            if isinstance(failed, TrioSupError):
                raise failed
            raise DownloadFailed(in_words(places[0]), str(failed)) from failed
        return None

    async def entry_for(self, release: Release) -> IndexEntry | None:
        """What a gallery has under the name of *release*, whether it fits this machine or not: in the gallery that it
        came from, if that is known. None for what came from an address, or is in no gallery any more.

        Raises:
            GalleryUnavailable: No gallery that might have it can be read.
        """
        if not _is_of_a_gallery(release):
            return None
        recorded = release.metadata
        named = await self.catalogue.called(recorded.name or release.name)
        entries = [entry for entry in named if not entry.is_meta]
        own = (entry for entry in entries if shown(entry.gallery.url) == recorded.gallery_url)
        return next(own, entries[0] if entries else None)

    async def plan_for(self, release: Release) -> Plan:
        """How *release* is installed anew.

        Raises:
            GalleryUnavailable: No gallery that might have it can be read.
            InvalidValue: It came with the machine.
            InstallFailed: Nobody knows where it came from.
        """
        if release.system:
            raise InvalidValue(release.name, "it came with the machine, and is not to be changed")
        entry = await self.entry_for(release)
        plan = plan_for_entry(entry) if entry is not None else self._plan_for_address(release)
        # It stays where it is, whatever it is called there.
        record = attrs.evolve(plan.record, alias=plan.record.alias or release.metadata.alias)
        return attrs.evolve(plan, asked=release.name, concrete=release.name, record=record)

    @staticmethod
    def _plan_for_address(release: Release) -> Plan:
        uri = release.metadata.uri
        if uri is None:
            raise InstallFailed(release.name, "it is not recorded where it came from; install it from its address")
        address = address_of(uri, here=Path("/"))
        if address is None:
            raise InstallFailed(release.name, f"{in_words(uri)}, where it came from, is no address any more")
        return plan_for_address(address, name=release.name, alias=release.metadata.alias, sha256=None)


def _is_of_a_gallery(release: Release) -> bool:
    # One of unknown origin may be of one, too.
    return release.metadata.gallery_url is not None or release.metadata.uri is None


def _places(installed: Metadata, entry: IndexEntry | None) -> list[str]:
    places = [entry.uri, installed.uri, *entry.mirrors] if entry is not None else [installed.uri]
    return list(dict.fromkeys(place for place in places if place is not None))
