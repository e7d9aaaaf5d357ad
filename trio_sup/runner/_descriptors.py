"""The limit of open files: high for the supervisor, as it was for the backends."""

from __future__ import annotations

import resource

ENOUGH = 65_536
"""More than a machine full of backends needs. The hard limit can be a billion, over which some programs loop."""


def raise_limit() -> int:
    """Raise the soft limit of open files towards the hard one; returns the soft limit as it was, for the children."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return soft
