"""Whether what was fetched can be started at all."""

from __future__ import annotations

from pathlib import Path

from .._gallery_errors import NotABackend
from ._listing import RUN_SCRIPT

_OF_IMAGES = ("oci-layout", "manifest.json")
"""What image files have at their top. Source: the OCI image layout specification; `docker save`."""


def check_run_script(release: Path, what: str) -> None:
    """See that there is a program to start in *release*, and make it executable if nobody may execute it.

    Args:
        what: What was fetched, for the message.

    Raises:
        NotABackend: There is none.
        OSError: It cannot be made executable.
    """
    script = release / RUN_SCRIPT
    if not script.is_file():
        why = f"there is no file {RUN_SCRIPT} in it"
        below = [path.parent.name for path in sorted(release.glob(f"*/{RUN_SCRIPT}")) if path.is_file()]
        if len(below) == 1:
            why += f"; there is one in its directory {below[0]}, whose content is what must be packed"
        elif any((release / name).is_file() for name in _OF_IMAGES):
            why += "; it looks like an image, whose address begins with ocifile://"
        raise NotABackend(what, why, release)
    if not script.resolve().is_relative_to(release.resolve()):
        raise NotABackend(what, f"its {RUN_SCRIPT} is a link that leads out of it", release)
    mode = script.stat().st_mode
    if not mode & 0o111:
        # Whoever may read it may execute it. Source: LocalAI starts such files as well (spec 1.3).
        script.chmod((mode | (mode & 0o444) >> 2 | 0o500) & 0o7777)
