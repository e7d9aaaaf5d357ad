"""Values as what JSON can hold, and exit reports read back from it."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import attrs

from ._phases import Cause, Phase
from ._reports import ExitReport, ExitStatus, Survivor
from ._values import ProcessKey
from .errors import InvalidValue


def plain(value: object) -> dict[str, Any]:
    """An attrs value as what JSON can hold: keys and paths as text, members of enumerations as their values."""
    return attrs.asdict(cast(attrs.AttrsInstance, value), value_serializer=_plain)


def _plain(_: object, __: object, value: Any) -> Any:
    match value:
        case ProcessKey() | Path():
            return str(value)
        case enum.Enum():
            return value.value
        case _:
            return value


def report_from(table: object) -> ExitReport:
    """Read what `plain` makes of an exit report; fields that are not known are left out, so that newer ones may come.

    Raises:
        InvalidValue: It is none, or lacks what every report has.
    """
    if not isinstance(table, Mapping):
        raise InvalidValue(table, "expected an exit report")
    return cast(ExitReport, _read(ExitReport, table))


def _read(cls: type, table: Mapping[str, Any]) -> Any:
    given = {}
    for field in attrs.fields(cls):
        if field.name in table:
            try:
                given[field.name] = _READERS[field.type](table[field.name])
            except (ValueError, TypeError) as error:
                raise InvalidValue(table[field.name], f"{field.name} of {cls.__name__} makes no sense") from error
        elif field.default is attrs.NOTHING:
            raise InvalidValue(table, f"{cls.__name__} without {field.name}")
    return cls(**given)


def _exactly(*types: type) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if type(value) not in types:  # for Python, True is a number
            raise TypeError(value)
        return value

    return check


def _number(value: Any) -> float:
    return float(_exactly(int, float)(value))


def _optional(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else read(value)


def _table(cls: type) -> Callable[[Any], Any]:
    return lambda value: _read(cls, _exactly(dict)(value))


def _survivors(value: Any) -> Sequence[Survivor]:
    return tuple(map(_table(Survivor), _exactly(list, tuple)(value)))


# Annotations are texts in this file.
_READERS: Mapping[Any, Callable[[Any], Any]] = {
    "ProcessKey": ProcessKey.parse,
    "Cause": Cause,
    "Phase": Phase,
    "bool": _exactly(bool),
    "float": _number,
    "int": _exactly(int),
    "int | None": _optional(_exactly(int)),
    "str": _exactly(str),
    "str | None": _optional(_exactly(str)),
    "ExitStatus | None": _optional(_table(ExitStatus)),
    "Sequence[Survivor]": _survivors,
}
