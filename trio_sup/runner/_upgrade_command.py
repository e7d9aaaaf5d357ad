"""`trio-sup upgrade`: installed releases are replaced by newer ones, without a supervisor."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from .._releases import Release
from ..errors import TrioSupError
from ..gallery._installing import Installer, Upgrade
from ..gallery._upgrades import NewerNotTold
from ._gallery_listing import tell_problems
from ._gallery_session import reason, with_installer
from ._gallery_setup import GallerySetup
from ._install_display import open_display
from ._release_changes import Changes, repair
from ._release_words import called, document
from ._stderr import say, warn
from ._table import NOTHING, table

NOTHING_NEWER = "nothing newer is known"
"""Not that there is nothing: somebody may not have answered, and that is told besides."""


def upgrade_releases(setup: GallerySetup, names: Sequence[str], *, check: bool, as_json: bool) -> int:
    """Upgrade the releases called *names*, one after the other; one that fails keeps no other from it.

    Args:
        names: None of them means all that are installed.
        check: Only tell what there is.
        as_json: Progress and results as JSON lines on stdout; what there is, as one document.

    Raises:
        UnknownRelease: One is not installed; nothing was changed.
        GalleryUnavailable: No gallery can be read.
    """
    changes = Changes(open_display(as_json=as_json), as_json and not check)

    async def work(installer: Installer) -> int:
        with _told_to_programs(changes):
            if not check:
                await repair(installer)
            for name in names:
                installer.find(name)
            newer, unknown = await _newer(installer, names)
        if check:
            _show(newer, unknown, installer, as_json=as_json)
            return 1 if names and unknown else 0
        tell_problems(installer.catalogue)
        _tell_current(newer, names, unknown, installer, changes)
        failed = [upgrade for upgrade in newer if not await _upgraded(upgrade, installer, changes)]
        for name, error in unknown.items():
            if names:
                changes.fail(name, error)
                say(reason(error))
            else:
                warn(f"whether there is a newer {name} cannot be told: {reason(error)}")
        return 1 if failed or (names and unknown) else 0

    return with_installer(setup, work, tick=changes.display.tick, warn=changes.display.warn)


async def _newer(installer: Installer, names: Sequence[str]) -> tuple[Sequence[Upgrade], Mapping[str, TrioSupError]]:
    """Of which releases there are newer ones; and of which that cannot be told, and why."""
    unknown: dict[str, TrioSupError] = {}

    def note(release: Release, error: TrioSupError) -> None:
        # Of all that are installed, those are no news that are never told of.
        if names or not isinstance(error, NewerNotTold):
            unknown[release.name] = error

    return await installer.upgrades(names or None, unknown=note), unknown


@contextmanager
def _told_to_programs(changes: Changes) -> Iterator[None]:
    """What keeps anything from being upgraded is told to programs, and goes on its way."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (TrioSupError, OSError) as error:
        changes.fail(None, error)
        raise


async def _upgraded(upgrade: Upgrade, installer: Installer, changes: Changes) -> bool:
    name = upgrade.release.name
    try:
        with changes.one(name):
            staging = installer.staged_upgrade(name, instead_of=upgrade.release.metadata, report=changes.report)
            await changes.put_in_place(installer, staging)
    except BrokenPipeError:
        raise
    except (TrioSupError, OSError) as error:
        say(reason(error))
        return False
    return True


def _tell_current(
    newer: Sequence[Upgrade], names: Sequence[str], unknown: Collection[str], installer: Installer, changes: Changes
) -> None:
    """Say that there is nothing newer: of each that was asked for by name, or of all together."""
    old = {*unknown, *(upgrade.release.concrete_name for upgrade in newer)}
    current = [release for name in names if (release := installer.find(name)).concrete_name not in old]
    for release in current:
        if changes.as_json:
            changes.put({"type": "current", "release": document(release)})
        else:
            print(f"{called(release)} is up to date", flush=True)
    if not names and not newer and not changes.as_json:
        print(NOTHING_NEWER, flush=True)


def _show(
    newer: Sequence[Upgrade], unknown: Mapping[str, TrioSupError], installer: Installer, *, as_json: bool
) -> None:
    problems = [*installer.catalogue.problems, *(f"{name}: {reason(error)}" for name, error in unknown.items())]
    if as_json:
        document = {"upgrades": [_entry(upgrade) for upgrade in newer], "problems": problems}
        print(json.dumps(document, indent=2))
        return
    for problem in problems:
        warn(problem)
    if not newer:
        print(NOTHING_NEWER)
        return
    rows = [["NAME", "INSTALLED", "AVAILABLE", "WHY"]]
    for upgrade in newer:
        entry = _entry(upgrade)
        rows.append([entry["name"], entry["installed"] or NOTHING, entry["available"] or NOTHING, upgrade.why])
    print("\n".join(table(rows)))


def _entry(upgrade: Upgrade) -> dict[str, Any]:
    return {
        "name": upgrade.release.name,
        "installed": upgrade.release.metadata.version,
        "available": upgrade.entry.version if upgrade.entry is not None else None,
        "why": upgrade.why,
    }
