"""`trio-sup install`: one release, all or nothing, without a supervisor."""

from __future__ import annotations

from ..gallery._installing import Installer
from ._gallery_session import with_installer
from ._gallery_setup import GallerySetup
from ._install_display import open_display
from ._release_changes import Changes, repair


def install_release(
    setup: GallerySetup,
    what: str,
    *,
    name: str | None,
    alias: str | None,
    sha256: str | None,
    force: bool,
    as_json: bool,
) -> int:
    """Install *what*, and show how far it has come; the arguments are those of `Supervisor.install`.

    Args:
        as_json: Progress and result as JSON lines on stdout.

    Raises:
        UnknownEntry, GalleryUnavailable: No gallery has it, or none could be asked.
        UnknownSource: No plugin fetches such addresses.
        InstallFailed: It could not be fetched, or must not be used; nothing was changed.
    """
    changes = Changes(open_display(as_json=as_json), as_json)

    async def work(installer: Installer) -> int:
        with changes.one(what):
            await repair(installer)
            staging = installer.staged(what, name=name, alias=alias, sha256=sha256, force=force, report=changes.report)
            await changes.put_in_place(installer, staging)
        return 0

    return with_installer(setup, work, tick=changes.display.tick, warn=changes.display.warn)
