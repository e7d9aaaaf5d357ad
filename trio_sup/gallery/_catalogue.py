"""What all galleries together offer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from .._gallery_errors import GalleryUnavailable, UnknownEntry
from ._addresses import GITHUB
from ._cool_down import CoolDowns
from ._fetching import TIMEOUT, IndexFetcher, http_client
from ._gallery import Gallery
from ._gallery_reader import GalleryReader
from ._index import IndexEntry
from ._index_cache import IndexCache
from ._looking_up import Found, Shelves, split_name
from ._searching import search

if TYPE_CHECKING:
    import httpx2

MAX_AGE = 3600.0
"""Seconds for which an index that was read is not read again. Source: spec 7.2."""
MAX_AGE_OF_A_MISS = 60.0
"""Seconds for which that there is no such entry is believed without another look."""
SECOND_LOOK = 15.0
"""Seconds that this other look may take."""


class Catalogue:
    """What the *galleries* offer, read when it is asked for.

    Nothing runs in the background. Galleries are read beside one another, each at most once at a time however many
    tasks ask; one that cannot be read hides only itself, and `problems` says so. What was read is remembered for an
    hour, here and in *cache_dir*; a copy that is older is served when nothing else is to be had. Galleries that are
    files on this machine are looked at every time.

    Args:
        galleries: In order of preference, for names that several of them have.
        capability: Of this machine, as `detect_capability` tells it; ``"disable"`` fits everything.
        cache_dir: Where copies are kept; made when it is needed. None keeps none.
        files_below: Where the indexes that ``file`` addresses name must lie; None refuses such addresses.
        timeout: Seconds that one source of an index may take.
        now: A clock, in seconds since the epoch.
        client: Makes the HTTP client; called in a thread.
        github: Where the files of GitHub repositories are, for ``github:`` addresses.
    """

    def __init__(
        self,
        galleries: Sequence[Gallery],
        *,
        capability: str,
        cache_dir: Path | None,
        files_below: Path | None = None,
        timeout: float = TIMEOUT,
        now: Callable[[], float] = time.time,
        client: Callable[[], httpx2.AsyncClient] = http_client,
        github: str = GITHUB,
    ) -> None:
        self.capability = capability
        cool_downs = CoolDowns(now)
        limiter = trio.CapacityLimiter(2)
        fetcher = IndexFetcher(files_below=files_below, timeout=timeout, client=client)
        self._readers: dict[str, GalleryReader] = {}
        self._notes: list[str] = []
        for gallery in galleries:
            if gallery.name.lower() in map(str.lower, self._readers):
                self._notes.append(f"a second gallery called {gallery.name!r} is left out: give it another name")
                continue
            self._readers[gallery.name] = GalleryReader(
                gallery,
                fetcher=fetcher,
                cache=IndexCache(cache_dir) if cache_dir is not None else None,
                cool_downs=cool_downs,
                now=now,
                limiter=limiter,
                github=github,
            )

    @property
    def galleries(self) -> Sequence[Gallery]:
        """Those that are asked, in order of preference."""
        return tuple(reader.gallery for reader in self._readers.values())

    @property
    def problems(self) -> Sequence[str]:
        """What was wrong when the galleries were last read, for people: which could not be read and why, that an
        older copy was served and how old it is, what is left out."""
        read = (f"gallery {name!r}: {problem}" for name, reader in self._readers.items() for problem in reader.problems)
        return (*self._notes, *read)

    async def entries(self, *, refresh: bool = False) -> Sequence[IndexEntry]:
        """Everything that the galleries offer, whether it fits this machine or not.

        Args:
            refresh: Whether to ask the galleries now, even if it was read a short while ago.

        Raises:
            GalleryUnavailable: Not one of the galleries can be read, and there is no copy of any.

        Cancellation: others who wait for the same go on.
        """
        shelves = await self._read(0 if refresh else MAX_AGE)
        return tuple(entry for entries in shelves.entries.values() for entry in entries)

    async def search(
        self, text: str = "", *, tag: str | None = None, capability: str | None = None
    ) -> Sequence[IndexEntry]:
        """The entries that match, best first; see `entries` for what is raised.

        The order: the one that is called *text*; those that have it as their alias; those whose name begins with it;
        the rest. Among equals, released builds come before those under development.

        Args:
            text: Words that must all be in name, alias, description or tags, in any case of letters.
            tag: One that an entry must have.
            capability: Of the machine that an entry must fit; None for any. That of this one is `capability`.
        """
        return search(await self.entries(), text, tag=tag, capability=capability)

    async def find(self, name: str) -> Found:
        """The concrete backend that *name* means on this machine.

        A gallery that could not be read in the last ten minutes is passed over if others have something. A name that
        is not found is looked for once more, in all galleries, in indexes that are at most a minute old; that takes
        15 seconds at most.

        Args:
            name: Of an entry, or ``gallery@name``, in any case of letters.

        Raises:
            UnknownEntry: No gallery has it, or it does not fit this machine; the reason is told.
            GalleryUnavailable: No gallery that might have it can be read, and there is no copy.

        Cancellation: others who wait for the same go on.
        """
        shelves = await self._read(MAX_AGE, name)
        with suppress(UnknownEntry):
            return shelves.find(name)
        with trio.move_on_after(SECOND_LOOK):
            shelves = await self._read(MAX_AGE_OF_A_MISS, name, insist=True)
        return shelves.find(name)

    async def called(self, name: str) -> Sequence[IndexEntry]:
        """All entries of this name, those that do not fit this machine included; see `find` for names and errors.

        An unknown name has none, which is no error.
        """
        return (await self._read(MAX_AGE, name)).called(name)

    async def _read(self, max_age: float, name: str | None = None, *, insist: bool = False) -> Shelves:
        """Read all galleries; only the one that *name* names, if it names one."""
        only = split_name(name)[0] if name is not None else None
        wanted = {called: reader for called, reader in self._readers.items() if only in (None, called.lower())}
        # A dead gallery must not hold up every other one, time and again; but if all are dead, one may have come back.
        insist = insist or all(reader.has_nothing for reader in wanted.values())
        entries: dict[str, Sequence[IndexEntry]] = {}
        failed: dict[str, GalleryUnavailable] = {}

        async def read(name: str, reader: GalleryReader) -> None:
            try:
                entries[name] = (await reader.read(max_age=max_age, insist=insist)).entries
            except GalleryUnavailable as error:
                failed[name] = error

        async with trio.open_nursery() as nursery:
            for called, reader in wanted.items():
                nursery.start_soon(read, called, reader, name=f"gallery {called}")
        if failed and not entries:
            reasons = [reason for error in failed.values() for reason in error.reasons]
            raise GalleryUnavailable(", ".join(failed), reasons)
        in_order = tuple(self._readers)
        return Shelves(
            galleries=in_order,
            entries={called: entries[called] for called in in_order if called in entries},
            unread=tuple(called for called in in_order if called in failed),
            capability=self.capability,
        )
