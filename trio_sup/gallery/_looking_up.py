"""From a name to the entry that it means on this machine; why there is none, if there is none."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import attrs

from .._gallery_errors import UnknownEntry
from .._wording import did_you_mean
from ._capability import concrete_name, fits, made_for
from ._index import IndexEntry


@attrs.frozen
class Found:
    """What a name means on a machine.

    Attributes:
        entry: The concrete backend.
        meta: The meta that was asked for and stands for it here; None if the concrete one itself was.
    """

    entry: IndexEntry
    meta: IndexEntry | None = None


@attrs.frozen(kw_only=True)
class Shelves:
    """The entries of all galleries that could be read, for looking one up.

    Args:
        galleries: The names of all that are configured, in their order.
        entries: The entries of each that was read.
        unread: Those that should have been read too, and could not.
        capability: Of this machine.
    """

    galleries: Sequence[str]
    entries: Mapping[str, Sequence[IndexEntry]]
    unread: Sequence[str] = ()
    capability: str

    def find(self, name: str) -> Found:
        """What *name* (or ``gallery@name``) means: of several, what fits this machine, in the first gallery.

        Raises:
            UnknownEntry: There is nothing of this name, or it does not fit; the reason is told.
        """
        found = self.called(name)
        fitting = next((entry for entry in found if fits(entry, self.capability)), None)
        if fitting is None:
            raise self._unknown(name, self._why_unfit(found[0]) if found else self._why_unknown(name))
        if not fitting.is_meta:
            return Found(fitting)
        return Found(self._build_of(fitting, name), fitting)

    def called(self, name: str) -> Sequence[IndexEntry]:
        """All entries of this name, whether they fit or not."""
        gallery, own_name = split_name(name)
        return [
            entry
            for shelf in self.galleries
            if gallery is None or gallery == shelf.lower()
            for entry in self.entries.get(shelf, ())
            if entry.name.lower() == own_name
        ]

    def _build_of(self, meta: IndexEntry, asked: str) -> IndexEntry:
        name = concrete_name(meta, self.capability)
        if name is None:
            raise self._unknown(asked, self._why_unfit(meta))
        # In its own gallery first: another one may have another build of this name.
        candidates = [*self.called(f"{meta.gallery.name}@{name}"), *self.called(name)]
        builds = [entry for entry in candidates if not entry.is_meta]
        for build in builds:
            if fits(build, self.capability):
                return build
        here = f"its build for {self.capability!r} is {name!r}"
        raise self._unknown(asked, f"{here}; {self._why_unfit(builds[0])}" if builds else f"{here}, which is missing")

    def _unknown(self, name: str, why: str) -> UnknownEntry:
        reasons = [why] if why else []
        if self.unread:
            reasons.append(f"{', '.join(self.unread)} could not be read")
        return UnknownEntry(name, self._names_that_fit(), "; ".join(reasons))

    def _names_that_fit(self) -> Sequence[str]:
        names = (entry.name for shelf in self.entries.values() for entry in shelf if fits(entry, self.capability))
        return tuple(dict.fromkeys(names))

    def _why_unfit(self, entry: IndexEntry) -> str:
        if entry.is_meta:
            has = ", ".join(sorted(entry.capabilities))
            return f"it has builds for {has}, and this machine is {self.capability!r}"
        why = f"it is a build for {made_for(entry)}, and this machine is {self.capability!r}"
        metas = (
            other
            for other in self.entries.get(entry.gallery.name, ())
            if other.is_meta and entry.name in other.capabilities.values() and fits(other, self.capability)
        )
        better = next(metas, None)
        return f"{why}; {better.name!r} means the build that fits" if better else why

    def _why_unknown(self, name: str) -> str:
        gallery, own_name = split_name(name)
        if gallery is not None and gallery not in map(str.lower, self.galleries):
            return f"there is no gallery {gallery!r}; configured are {', '.join(self.galleries) or 'none'}"
        if not self.galleries:
            return "no gallery is configured"
        builds = [
            entry.name
            for shelf in self.entries.values()
            for entry in shelf
            if entry.alias is not None and entry.alias.lower() == own_name and fits(entry, self.capability)
        ]
        if builds:
            return f"it is an alias of {', '.join(builds[:5])}{', …' if len(builds) > 5 else ''}; name one of them"
        return did_you_mean(own_name, self._names_that_fit()) or ""


def split_name(name: str) -> tuple[str | None, str]:
    """The gallery and the name that ``gallery@name`` means, in lower case; no gallery if none is named.

    What separates the parts of a path is two underscores in the names of entries. Source: spec 7.3.
    """
    gallery, separator, own_name = name.strip().lower().rpartition("@")
    return (gallery if separator else None), own_name.replace(os.sep, "__")
