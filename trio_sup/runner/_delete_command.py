"""`trio-sup delete`: installed releases that nobody runs are removed, without a supervisor."""

from __future__ import annotations

import json
from collections.abc import Sequence

from .._gallery_errors import ReleaseInUse
from .._releases import Release
from ..gallery._installing import Installer
from ._gallery_session import with_installer
from ._gallery_setup import GallerySetup
from ._release_changes import holders_of, repair
from ._release_words import called, document


def delete_releases(setup: GallerySetup, names: Sequence[str], *, as_json: bool) -> int:
    """Delete the releases called *names*.

    Args:
        as_json: One JSON document instead of lines; also if it was not to the end.

    Raises:
        UnknownRelease, ReleaseInUse, InvalidValue: One is not installed, is run by somebody, or came with the machine;
            if that is seen beforehand, none is deleted.
    """

    async def work(installer: Installer) -> int:
        await repair(installer)
        wanted = [installer.find(name, runnable=False) for name in dict.fromkeys(names)]
        for release in wanted:
            if holders := holders_of(installer, release):
                raise ReleaseInUse(release.name, holders)
        deleted: list[Release] = []
        try:
            for release in wanted:
                # Two names of one release are one deletion.
                if all(release.concrete_name != other.concrete_name for other in deleted):
                    deleted.append(await installer.delete(release.name))
                    if not as_json:
                        print(f"{called(deleted[-1])} is deleted", flush=True)
        finally:
            if as_json:
                print(json.dumps({"deleted": [document(release) for release in deleted]}, indent=2))
        return 0

    return with_installer(setup, work)
