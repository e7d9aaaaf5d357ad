"""A backend of a gallery as it is shown: what it is on this machine, and what is installed of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

from .._releases import Release
from ..gallery._capability import concrete_name, fits
from ..gallery._index import IndexEntry


@attrs.frozen(kw_only=True)
class Offered:
    """An entry of a gallery, seen from this machine.

    Attributes:
        fits: Whether this machine can use it.
        build: For a meta, the concrete backend that it means here; None if there is none.
        version: Its own, or that of its build.
        release: What is installed under its name; None if nothing is that can be run.
    """

    entry: IndexEntry
    fits: bool
    build: str | None
    version: str | None
    release: Release | None

    def for_programs(self) -> dict[str, Any]:
        """As a table of a JSON document."""
        entry = self.entry
        return {
            "name": entry.name,
            "gallery": entry.gallery.name,
            "alias": entry.alias,
            "meta": entry.is_meta,
            "build": self.build,
            "capabilities": dict(entry.capabilities) if entry.is_meta else None,
            "fits": self.fits,
            "version": self.version,
            "uri": entry.uri,
            "mirrors": list(entry.mirrors),
            "sha256": entry.sha256,
            "description": entry.description,
            "license": entry.license,
            "urls": list(entry.urls),
            "tags": list(entry.tags),
            "size": entry.size,
            "installed": self.release is not None,
            "installed_version": self.release.metadata.version if self.release is not None else None,
        }


def offered_by(
    entries: Iterable[IndexEntry], everything: Iterable[IndexEntry], capability: str, installed: Iterable[Release]
) -> list[Offered]:
    """See *entries* from a machine of this *capability*.

    Args:
        everything: What the galleries have, with the builds that metas stand for.
        installed: What is installed.
    """
    known = {(entry.gallery.name, entry.name.lower()): entry for entry in everything}
    runnable = {release.name: release for release in installed if release.runnable}

    def seen(entry: IndexEntry) -> Offered:
        build = concrete_name(entry, capability) if entry.is_meta else None
        meant = known.get((entry.gallery.name, build.lower())) if build is not None else entry
        return Offered(
            entry=entry,
            fits=fits(entry, capability),
            build=build,
            version=entry.version or (meant.version if meant is not None else None),
            release=runnable.get(entry.name),
        )

    return [seen(entry) for entry in entries]
