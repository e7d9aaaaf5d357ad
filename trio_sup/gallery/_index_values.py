"""What an index is read into before it means anything, and the error when it is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import attrs

from ..errors import InvalidValue, TrioSupError


@attrs.define(slots=False, eq=False)
class NotAnIndex(TrioSupError):
    """What was read is not the index of a gallery."""

    why: str

    def __str__(self) -> str:
        return f"this is not an index: {self.why}"


@attrs.frozen
class Unusable:
    """Stands where a value cannot be read; whoever needs that value says why."""

    why: str


Value: TypeAlias = "str | list[Any] | dict[str, Any] | Unusable | None"
"""Every scalar is the text that stands in the file, or None for null."""


@attrs.frozen
class Item:
    """An item of the outermost list, and the line where it begins, counted from 1."""

    value: Value
    line: int


@attrs.frozen
class ItemList:
    """The outermost list, and what is to be reported of the file."""

    items: Sequence[Item]
    notes: Sequence[str]


def in_brief(error: InvalidValue) -> str:
    """What *error* says, with little of the value.

    Lists and tables are not written out: with aliases, a small file can hold one that is endless when written.
    """
    value = error.value
    if isinstance(value, Unusable):
        return f"{error.why}: {value.why}" if error.why else value.why
    if isinstance(value, str):
        return f"{error.why} (got {value[:60]!r}{'…' if len(value) > 60 else ''})"
    kind = {list: "a list", dict: "a table", type(None): "nothing"}.get(type(value), type(value).__name__)
    return f"{error.why} (got {kind})"
