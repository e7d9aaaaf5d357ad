"""Links in a release must not lead out of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable

from .._gallery_errors import UnsafeArchive
from ._tree_writer import TreeWriter


def check_links(
    root: os.PathLike[str],
    links: Iterable[tuple[tuple[str, ...], str, str]],
    what: str,
    *,
    checkpoint: Callable[[], None],
) -> None:
    """Follow each of *links* below *root*, as the system would; what is no link any more does not matter.

    Args:
        links: For each, the parts of its directory, its name, and what it points to.
        what: What all of it is called in messages.
        checkpoint: Called often; may raise to stop.

    Raises:
        UnsafeArchive: One leads out.
    """
    tree = TreeWriter(root, links=False)
    try:
        for parts, name, target in links:
            checkpoint()
            status = tree.status((parts, name))
            if status is not None and stat.S_ISLNK(status.st_mode) and not tree.reaches(parts, target):
                raise UnsafeArchive(
                    what, f"is a link that leads out of it: {target!r}", member="/".join((*parts, name))
                )
    finally:
        tree.close()
