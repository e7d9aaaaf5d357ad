"""`trio-sup gallery list` and `search`: what the galleries have, for this machine above all."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from .._wording import counted
from ..gallery._catalogue import Catalogue
from ..gallery._installing import Installer
from ._gallery_session import with_installer
from ._gallery_setup import GallerySetup
from ._offered import Offered, offered_by
from ._stderr import warn
from ._table import NOTHING, table


def list_backends(
    setup: GallerySetup, text: str = "", *, tag: str | None, every: bool, refresh: bool, as_json: bool
) -> int:
    """Print the entries that match *text*, best first.

    Args:
        tag: One that they must have.
        every: Those for other machines as well.
        refresh: Ask the galleries now, however short a while ago they were asked.
        as_json: One JSON document instead of a table.

    Raises:
        GalleryUnavailable: No gallery can be read.
    """

    async def work(installer: Installer) -> int:
        catalogue = installer.catalogue
        everything = await catalogue.entries(refresh=refresh)
        found = await catalogue.search(text, tag=tag, capability=None if every else catalogue.capability)
        offered = offered_by(found, everything, catalogue.capability, installer.installed())
        if as_json:
            print_document(catalogue, [each.for_programs() for each in offered])
            return 0
        tell_problems(catalogue)
        shown = offered if every else _without_builds(offered, text)
        if shown:
            print("\n".join(_cut(table(list(_rows(shown, several=len(catalogue.galleries) > 1))))), flush=True)
        print(_summary(len(shown), len(everything), catalogue.capability, every=every), file=sys.stderr)
        return 0

    return with_installer(setup, work)


def print_document(catalogue: Catalogue, backends: Sequence[Any]) -> None:
    """Print what is shown of *backends* for programs, and what could not be read."""
    document = {
        "capability": catalogue.capability,
        "backends": backends,
        "problems": list(catalogue.problems),
    }
    print(json.dumps(document, indent=2))


def tell_problems(catalogue: Catalogue) -> None:
    """Say on stderr what was wrong when the galleries were read."""
    for problem in catalogue.problems:
        warn(problem)


def _without_builds(offered: Sequence[Offered], text: str) -> list[Offered]:
    """Leave out the builds that are shown in the line of their meta; what was asked for by its name stays."""
    builds = {(each.entry.gallery.name, each.build) for each in offered if each.build is not None}
    wanted = text.strip().lower().rpartition("@")[2]
    return [
        each
        for each in offered
        if (each.entry.gallery.name, each.entry.name) not in builds or each.entry.name.lower() == wanted
    ]


def _rows(offered: Sequence[Offered], *, several: bool) -> Iterator[list[str]]:
    yield ["NAME", *(["GALLERY"] if several else []), "BUILD", "VERSION", "INSTALLED", "DESCRIPTION"]
    for each in offered:
        entry = each.entry
        lines = entry.description.strip().splitlines()
        build = each.build or (NOTHING if each.fits else "for other machines")
        yield [
            entry.name,
            *([entry.gallery.name] if several else []),
            build,
            each.version or NOTHING,
            _installed(each),
            lines[0].strip() if lines else "",
        ]


def _installed(offered: Offered) -> str:
    if offered.release is None:
        return NOTHING
    return offered.release.metadata.version or "yes"


def _cut(lines: Sequence[str]) -> Sequence[str]:
    """In a terminal, each line gets one line."""
    if not sys.stdout.isatty():
        return lines
    width = shutil.get_terminal_size().columns
    return [line if len(line) <= width else f"{line[: width - 1]}…" for line in lines]


def _summary(shown: int, of_all: int, capability: str, *, every: bool) -> str:
    if every:
        return f"trio-sup: {counted(shown, 'backend')}"
    of_them = f"{shown} of the {counted(of_all, 'backend')} of the galleries"
    return f"trio-sup: {of_them}, for this machine ({capability}); --all lists those for others, and all builds"
