"""The index of one gallery for all who ask: fetched once at a time, remembered, and served from a copy if need be."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import trio

from .._gallery_errors import GalleryUnavailable
from .._units import in_words
from ._addresses import located, path_of, shown
from ._cool_down import COOL_DOWN, CoolDowns
from ._fetching import Fetched, IndexFetcher, NotFetched
from ._gallery import Gallery
from ._index import Index, parse_index
from ._index_cache import Copy, IndexCache, digest_of
from ._index_values import NotAnIndex


@attrs.define
class _Round:
    """One attempt to read the gallery, which several may wait for.

    Attributes:
        asked: Whether it came to asking the sources, and that to an end; a copy on disk may have been enough for the
            one whose task it is, and that one may be cancelled.
    """

    done: trio.Event = attrs.field(factory=trio.Event)
    asked: bool = False


class GalleryReader:
    """Reads the index of *gallery*, in the tasks of those who ask for it.

    The first who finds it too old fetches it, others wait for that one; if it is cancelled, one of them begins anew.

    Args:
        cache: Where copies are kept on disk; None keeps none.
        cool_downs: Shared by all galleries.
        now: A clock in seconds since the epoch.
        limiter: For the threads that parse.
        github: Where the files of GitHub repositories are.
    """

    def __init__(
        self,
        gallery: Gallery,
        *,
        fetcher: IndexFetcher,
        cache: IndexCache | None,
        cool_downs: CoolDowns,
        now: Callable[[], float],
        limiter: trio.CapacityLimiter,
        github: str,
    ) -> None:
        self.gallery = gallery
        self._sources = tuple(dict.fromkeys(located(url, github=github) for url in (gallery.url, *gallery.mirrors)))
        self._local = all(path_of(source) is not None for source in self._sources)
        self._fetcher = fetcher
        self._cache = cache
        self._cool_downs = cool_downs
        self._now = now
        self._limiter = limiter
        self._copy: Copy | None = None
        self._round: _Round | None = None
        self._failed_at: float | None = None
        self._reasons: Sequence[str] = ()
        self._notes: Sequence[str] = ()

    @property
    def problems(self) -> Sequence[str]:
        """What was wrong when it was last read: sources that failed, entries left out, that a copy was served."""
        return (*self._notes, *(self._copy.index.problems if self._copy else ()))

    @property
    def has_nothing(self) -> bool:
        """Whether not one source could be read a short while ago, and there is no copy."""
        return self._copy is None and self._failed_lately(self._now())

    async def read(self, *, max_age: float, insist: bool = False) -> Index:
        """The index, as it was at most *max_age* seconds ago; 0 asks the gallery in any case.

        If no source can be read, an earlier copy is served, however old. Then the sources are left alone for the
        length of a cool-down, unless *max_age* is 0. Files are looked at every time.

        Args:
            insist: Whether to ask again although it `has_nothing`, rather than to fail at once for the same reasons.

        Raises:
            GalleryUnavailable: No source can be read, and there is no copy.

        Cancellation: another one who waits for the same goes on in its place.
        """
        await trio.lowlevel.checkpoint()
        if self.has_nothing and max_age > 0 and not insist:
            raise GalleryUnavailable(self.gallery.name, self._reasons)
        while not self._is_fresh(max_age):
            current = self._round
            if current is None:
                current = await self._go_round(max_age)
            else:
                await current.done.wait()
            if current.asked:
                if self._copy is None:
                    raise GalleryUnavailable(self.gallery.name, self._reasons)
                break
        assert self._copy is not None
        return self._copy.index

    def _is_fresh(self, max_age: float) -> bool:
        if self._copy is None or self._local or max_age <= 0:
            return False
        now = self._now()
        # Later than now, if the clock was set back: then nobody knows how old it is.
        return 0 <= now - self._copy.current_at <= max_age or self._failed_lately(now)

    def _failed_lately(self, now: float) -> bool:
        return not self._local and self._failed_at is not None and 0 <= now - self._failed_at < COOL_DOWN

    async def _go_round(self, max_age: float) -> _Round:
        current = self._round = _Round()
        try:
            if self._copy is None and self._cache is not None:
                self._copy = await trio.to_thread.run_sync(self._load, self._cache, limiter=self._limiter)
            if not self._is_fresh(max_age):
                await self._ask()
                current.asked = True
        finally:
            self._round = None
            current.done.set()
        return current

    async def _ask(self) -> None:
        """Ask one source after the other until one has an index; note what went wrong."""
        first = self._cool_downs.worth_a_try(self._sources)
        passed_over = [source for source in self._sources if source not in first]
        known = self._copy.validators if self._copy else None
        reasons: list[str] = []
        # With nothing else to serve, even one that failed lately is better than none.
        for source in (*first, *([] if self._copy else passed_over)):
            try:
                fetched = await self._fetcher.fetch(source, known)
                self._copy, note = await trio.to_thread.run_sync(self._take_in, fetched, limiter=self._limiter)
            except (NotFetched, NotAnIndex) as error:
                reasons.append(str(error) if isinstance(error, NotFetched) else f"{shown(source)}: {error}")
                if path_of(source) is None:  # a file costs nothing to look at
                    self._cool_downs.failed(source)
                continue
            self._cool_downs.succeeded(source)
            self._failed_at = None
            self._notes = [f"{reason} (read from {shown(source)} instead)" for reason in reasons]
            self._notes += [note] if note else []
            return
        self._failed_at = self._now()
        self._reasons = reasons
        self._notes = [f"it could not be read: {'; '.join(reasons)}"]
        if self._copy is not None:
            age = in_words(round(max(self._failed_at - self._copy.current_at, 0)))
            self._notes = [f"{self._notes[0]}. What is known of it is {age} old"]

    # ---- in a thread

    def _load(self, cache: IndexCache) -> Copy | None:
        return cache.load(self.gallery, checkpoint=trio.from_thread.check_cancelled)

    def _take_in(self, fetched: Fetched) -> tuple[Copy, str | None]:
        """Make a copy of what was fetched, in memory and on disk. Returns it, and a problem with that if there is one.

        Raises:
            NotAnIndex: It is none; the copies stay as they are.
        """
        now, copy = self._now(), self._copy
        digest = digest_of(fetched.content) if fetched.content is not None else None
        if copy is not None and digest in (None, copy.digest) and fetched.validators == copy.validators:
            if self._cache is not None:
                self._cache.confirm(self.gallery, now)
            return attrs.evolve(copy, current_at=now), None
        assert fetched.content is not None
        assert digest is not None
        if copy is not None and digest == copy.digest:
            index = copy.index
        else:
            index = parse_index(fetched.content, self.gallery, checkpoint=trio.from_thread.check_cancelled)
        copy = Copy(index=index, digest=digest, current_at=now, validators=fetched.validators)
        if self._cache is not None:
            try:
                self._cache.store(self.gallery, fetched.content, copy)
            except OSError as error:
                return copy, f"no copy of it could be kept in {self._cache.directory}: {error.strerror}"
        return copy, None
