"""`trio-sup backends`: what is installed, where it came from, what room it takes, and who runs it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import trio

from .._releases import Release
from .._units import bytes_in_words
from ..gallery._addresses import shown as without_secrets
from ..gallery._installing import Installer
from ._gallery_session import reason, with_installer
from ._gallery_setup import GallerySetup
from ._release_changes import holders_of, repair
from ._release_words import document
from ._stderr import warn
from ._table import NOTHING, table

BLOCK = 512
"""Bytes of the blocks that the system counts in. Source: stat(2)."""


def show_installed(setup: GallerySetup, *, as_json: bool) -> int:
    """Print every release by every name that means it.

    Args:
        as_json: One JSON document instead of a table.
    """

    async def work(installer: Installer) -> int:
        try:
            await repair(installer)
        except OSError as error:
            # Where one may only read, there is still something to be seen.
            warn(reason(error))
        releases = installer.installed()
        sizes = await _sizes(releases)
        shown = [
            _Installed(
                release,
                sizes[release.directory] if release.directory is not None else None,
                holders_of(installer, release),
            )
            for release in releases
        ]
        directory = setup.galleries.backends_dir
        if as_json:
            print(json.dumps({"backends_dir": str(directory), "backends": [i.for_programs() for i in shown]}, indent=2))
        elif not shown:
            print(f"nothing is installed in {directory}")
        else:
            print("\n".join(table([_HEAD, *(i.row() for i in shown)])))
            for each in shown:
                if each.release.problem:
                    warn(f"{each.release.name}: {each.release.problem}")
        return 0

    return with_installer(setup, work)


_HEAD = ("NAME", "KIND", "VERSION", "FROM", "SIZE", "IN USE BY")


@attrs.frozen
class _Installed:
    release: Release
    size_bytes: int | None
    users: Sequence[str]

    def for_programs(self) -> dict[str, Any]:
        return {**document(self.release), "size_bytes": self.size_bytes, "in_use_by": list(self.users)}

    def row(self) -> Sequence[str]:
        release, metadata = self.release, self.release.metadata
        stands_for = release.kind != "concrete"
        address = metadata.uri or metadata.gallery_url
        return (
            release.name,
            f"{release.kind} of {release.concrete}" if stands_for and release.concrete else release.kind,
            metadata.version or NOTHING,
            "this machine" if release.system else without_secrets(address) if address else NOTHING,
            # The files are those of the one that it stands for.
            bytes_in_words(self.size_bytes) if self.size_bytes is not None and not stands_for else NOTHING,
            ", ".join(self.users) or NOTHING,
        )


async def _sizes(releases: Sequence[Release]) -> Mapping[Path, int]:
    """What each directory of *releases* takes on disk, in bytes."""
    directories = {release.directory for release in releases if release.directory is not None}
    return {path: await trio.to_thread.run_sync(_size, path, abandon_on_cancel=True) for path in directories}


def _size(directory: Path) -> int:
    """Counts a file with several names once; what cannot be looked into counts nothing."""
    total, seen = 0, set()
    for status in _statuses(directory):
        if (status.st_dev, status.st_ino) not in seen:
            seen.add((status.st_dev, status.st_ino))
            total += status.st_blocks * BLOCK
    return total


def _statuses(directory: Path) -> Iterator[os.stat_result]:
    for path, _, files in os.walk(directory):
        for name in ("", *files):
            with contextlib.suppress(OSError):  # it may go away meanwhile
                yield os.lstat(os.path.join(path, name))
