"""Looking through the entries of galleries: what matches, and what comes first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ._capability import fits
from ._index import IndexEntry
from ._looking_up import split_name


def search(
    entries: Iterable[IndexEntry], text: str = "", *, tag: str | None = None, capability: str | None = None
) -> Sequence[IndexEntry]:
    """The entries that match, best first; the case of letters makes no difference.

    The order: the one that is called *text*; those that have it as their alias; those whose name begins with it; the
    rest. Among equals, released builds come before those under development, metas before their builds, and the order
    of *entries* is kept.

    Args:
        text: Words that must all be in name, alias, description or tags; after ``gallery@``, of that gallery alone.
        tag: One that an entry must have.
        capability: Of the machine that an entry must fit; None for any.
    """
    gallery, wanted = split_name(text) if "@" in text else (None, text.strip().lower())
    words = wanted.split()
    wanted_tag = tag.lower() if tag is not None else None
    ranked: list[tuple[int, bool, bool, int, IndexEntry]] = []
    for entry in entries:
        if gallery is not None and gallery != entry.gallery.name.lower():
            continue
        if capability is not None and not fits(entry, capability):
            continue
        tags = [word.lower() for word in entry.tags]
        if wanted_tag is not None and wanted_tag not in tags:
            continue
        said = "\n".join((entry.name, entry.alias or "", entry.description, *tags)).lower()
        if all(word in said for word in words):
            ranked.append((_rank(entry, wanted), entry.is_development, not entry.is_meta, len(ranked), entry))
    return tuple(entry for *_, entry in sorted(ranked, key=lambda found: found[:-1]))


def _rank(entry: IndexEntry, wanted: str) -> int:
    name = entry.name.lower()
    if wanted == name:
        return 0
    if entry.alias is not None and wanted == entry.alias.lower():
        return 1
    return 2 if name.startswith(wanted) else 3
