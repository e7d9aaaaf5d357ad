"""Tables of the configuration that are wrong in parts: the rest of them is looked at as well."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

from .._structuring import InvalidTable, below, structure

T = TypeVar("T")


def structure_what_is_right(
    cls: type[T], table: Mapping[str, Any], path: str, stand_in: Mapping[str, Any] = MappingProxyType({})
) -> tuple[T | None, Sequence[str]]:
    """Make a *cls* of what is right in *table*, and say what is not; None if nothing can be made of it.

    Args:
        path: Where the table stands.
        stand_in: What cannot be left out.
    """
    try:
        return structure(cls, table, path), ()
    except InvalidTable as error:
        with contextlib.suppress(InvalidTable):
            return structure(cls, {**stand_in, **_without_wrong(table, path, error.problems)}, path), error.problems
        return None, error.problems


def _without_wrong(table: Mapping[str, Any], path: str, problems: Sequence[str]) -> dict[str, Any]:
    """*table* without the values that one of *problems* is about."""
    result = {}
    for key, value in table.items():
        place = below(path, key)
        if not any(problem.startswith((f"{place}:", f"{place}[")) for problem in problems):
            result[key] = _without_wrong(value, place, problems) if isinstance(value, Mapping) else value
    return result
