"""Which variables of its environment a backend keeps."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase

PROTECTED = frozenset({"TRIO_SUP_TREE", "SPT_NOENV"})
"""By these the supervisor, and one around it, finds the processes of a backend."""

TOKEN = "LOCALAI_GRPC_AUTH_TOKEN"


def scrubbed(
    environment: Mapping[str, str], keep: Sequence[str] | None, drop: Sequence[str], named: Collection[str]
) -> dict[str, str]:
    """What is left of *environment*.

    Args:
        keep: Patterns of what stays; None for everything.
        drop: Patterns of what goes, of the rest.
        named: Variables that were set for this backend by name: no pattern takes them, only their own name in *drop*.
    """

    def stays(name: str) -> bool:
        if name in PROTECTED:
            return True
        if name in named or name == TOKEN:
            return name not in drop
        return (keep is None or _matches(name, keep)) and not _matches(name, drop)

    return {name: value for name, value in environment.items() if stays(name)}


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
