"""Pieces of messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """A question after the one of *known* that *name* was probably meant to be; None if it is like none of them."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}?" if near else None


def instead_of(name: str, known: Sequence[str]) -> str:
    """What to try instead of *name*: the one of *known* that was probably meant, else all of them."""
    return did_you_mean(name, known) or f"known are {', '.join(known)}"


def said_by(error: BaseException) -> str:
    """What *error* says; if it says nothing, what the nearest of its causes does."""
    seen: BaseException | None = error
    while seen is not None:
        if text := str(seen):
            return text
        seen = seen.__cause__ or seen.__context__
    return type(error).__name__


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number of things: ``"1 restart"``, ``"3 restarts"``; *many* is the plural of *one* if that is no mere ``s``."""
    return f"{number} {one if number == 1 else many or one + 's'}"
