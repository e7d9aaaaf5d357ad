"""`trio-sup gallery show`: all that is known of one backend of the galleries."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator

import attrs

from .._gallery_errors import UnknownEntry
from ..gallery._addresses import shown as without_secrets
from ..gallery._catalogue import Catalogue
from ..gallery._index import IndexEntry
from ..gallery._installing import Installer
from ._gallery_listing import print_document, tell_problems
from ._gallery_session import with_installer
from ._gallery_setup import GallerySetup
from ._offered import Offered, offered_by

_LABEL = 14
_WIDTH = 100
_LEAST_WIDTH = 20


def show_backend(setup: GallerySetup, name: str, *, as_json: bool) -> int:
    """Print the entries that are called *name*, those that do not fit this machine as well.

    Raises:
        UnknownEntry: No gallery has one.
        GalleryUnavailable: No gallery that might have one can be read.
    """

    async def work(installer: Installer) -> int:
        catalogue = installer.catalogue
        entries = await catalogue.called(name)
        if not entries:
            entries = [(await catalogue.find(name)).entry]  # says why there is none
        offered = offered_by(entries, await catalogue.entries(), catalogue.capability, installer.installed())
        shown = [await _Shown.of(each, catalogue) for each in offered]
        if as_json:
            print_document(catalogue, [each.for_programs() for each in shown])
            return 0
        tell_problems(catalogue)
        print("\n\n".join("\n".join(each.for_people()) for each in shown))
        return 0

    return with_installer(setup, work)


@attrs.frozen(kw_only=True)
class _Shown:
    """An entry, and what it comes to here.

    Attributes:
        concrete: What would be installed.
        why_not: Why nothing would.
    """

    offered: Offered
    capability: str
    concrete: IndexEntry | None = None
    why_not: str = ""

    @classmethod
    async def of(cls, offered: Offered, catalogue: Catalogue) -> _Shown:
        try:
            found = await catalogue.find(offered.entry.full_name)
        except UnknownEntry as error:
            return cls(offered=offered, capability=catalogue.capability, why_not=error.why)
        return cls(offered=offered, capability=catalogue.capability, concrete=found.entry)

    def for_programs(self) -> dict[str, object]:
        concrete = self.concrete
        return {
            **self.offered.for_programs(),
            "installs": None if concrete is None else {"name": concrete.name, "uri": concrete.uri},
            "why_not": self.why_not or None,
        }

    def for_people(self) -> Iterator[str]:
        entry = self.offered.entry
        yield entry.full_name
        width = _width()
        paragraphs = [" ".join(part.split()) for part in entry.description.split("\n\n")]
        for paragraph in filter(None, paragraphs):
            yield textwrap.fill(paragraph, width, initial_indent="  ", subsequent_indent="  ")
        for label, value in self._facts():
            first, *rest = value.splitlines()
            yield f"  {label:{_LABEL}}  {first}"
            yield from (f"  {'':{_LABEL}}  {line}" for line in rest)

    def _facts(self) -> Iterator[tuple[str, str]]:
        entry, concrete = self.offered.entry, self.concrete
        if concrete is None:
            yield "this machine", f"cannot use it: {self.why_not}"
        elif entry.is_meta:
            yield "this machine", f"{concrete.name}, its build for {self.capability}"
        yield "installed", self._installed()
        facts = {
            "version": self.offered.version or "",
            "address": _address(concrete or entry),
            "mirrors": "\n".join(map(without_secrets, (concrete or entry).mirrors)),
            "sha256": (concrete or entry).sha256 or "",
            "size": entry.size,
            "alias": entry.alias or "",
            "builds": "\n".join(f"{name} ({word})" for word, name in entry.capabilities.items())
            if entry.is_meta
            else "",
            "license": entry.license,
            "tags": ", ".join(entry.tags),
            "see": "\n".join(entry.urls),
        }
        yield from ((label, value) for label, value in facts.items() if value.strip())

    def _installed(self) -> str:
        release, name = self.offered.release, self.offered.entry.name
        if release is None:
            return "no" if self.concrete is None else f"no; `trio-sup install {name}` does it"
        version = release.metadata.version
        at = release.metadata.installed_at
        return ", ".join(filter(None, (version or "yes", at and f"since {at}", str(release.directory))))


def _width() -> int:
    """In a terminal that is narrower, lines end where it does."""
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDTH
    return max(_LEAST_WIDTH, min(_WIDTH, columns))


def _address(entry: IndexEntry) -> str:
    return without_secrets(entry.uri) if entry.uri is not None else ""
