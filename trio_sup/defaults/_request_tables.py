"""Tables into request messages: strictly, with every problem at once and its path."""

from __future__ import annotations

import base64
import binascii
import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from .._structuring import InvalidTable, below
from ..errors import InvalidValue

_FLOAT32_MAX: Final = 3.4028234663852886e38
_INTEGERS: Final = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


def request_from(kind: Descriptor, table: object, path: str) -> Message:
    """Make a message of *kind* from *table*, whose keys are the names of its fields.

    Nothing is converted silently: text is no number, a number is no text. Bytes are given as they are, or as text in
    base64; enumerations by name.

    Args:
        path: Where the table stands; the prefix of the paths in the problems.

    Raises:
        InvalidTable: Some keys are no fields, or some values do not fit.
    """
    problems: list[str] = []
    message = GetMessageClass(kind)()
    _fill(message, table, path, problems)
    if problems:
        raise InvalidTable(path, problems)
    return message


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The one of *known* that *name* was probably meant to be; upper and lower case and ``_`` make no difference."""
    plain = {_plain(each): each for each in known}
    near = difflib.get_close_matches(_plain(name), plain, n=1)
    return plain[near[0]] if near else None


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _fill(message: Any, table: object, path: str, problems: list[str]) -> None:
    if not isinstance(table, Mapping):
        problems.append(_problem(path, table, "expected a table"))
        return
    kind: Descriptor = message.DESCRIPTOR
    for key, value in table.items():
        place = below(path, str(key))
        field = kind.fields_by_name.get(key) if isinstance(key, str) else None
        if field is None:
            near = nearest(str(key), kind.fields_by_name)
            problems.append(f"{place}: {kind.name} has no such field{f'; did you mean {near!r}?' if near else ''}")
        elif field.message_type is not None and field.message_type.GetOptions().map_entry:
            _fill_map(getattr(message, field.name), field, value, place, problems)
        elif field.is_repeated:
            _fill_list(getattr(message, field.name), field, value, place, problems)
        elif field.message_type is not None:
            getattr(message, field.name).SetInParent()
            _fill(getattr(message, field.name), value, place, problems)
        else:
            try:
                setattr(message, field.name, _scalar(field, value))
            except InvalidValue as error:
                problems.append(f"{place}: {error}")


def _fill_list(target: Any, field: FieldDescriptor, value: object, path: str, problems: list[str]) -> None:
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        problems.append(_problem(path, value, "expected a list"))
        return
    for index, each in enumerate(value):
        if field.message_type is not None:
            _fill(target.add(), each, below(path, index), problems)
            continue
        try:
            target.append(_scalar(field, each))
        except InvalidValue as error:
            problems.append(f"{below(path, index)}: {error}")


def _fill_map(target: Any, field: FieldDescriptor, value: object, path: str, problems: list[str]) -> None:
    """All maps of the contract go from text to a scalar."""
    assert field.message_type is not None
    kinds = field.message_type.fields_by_name
    if not isinstance(value, Mapping):
        problems.append(_problem(path, value, "expected a table"))
        return
    for key, each in value.items():
        try:
            target[_scalar(kinds["key"], key)] = _scalar(kinds["value"], each)
        except InvalidValue as error:
            problems.append(f"{below(path, str(key))}: {error}")


def _scalar(field: FieldDescriptor, value: object) -> Any:
    """*value* as a value for *field*, which is no message.

    Raises:
        InvalidValue: It does not fit.
    """
    kind = field.cpp_type
    if kind in _INTEGERS:
        low, high = _INTEGERS[kind]
        if not isinstance(value, int) or isinstance(value, bool):
            raise InvalidValue(value, "expected a whole number")
        if not low <= value <= high:
            raise InvalidValue(value, f"expected a number from {low} to {high}")
        return value
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return _float(value, _FLOAT32_MAX if kind == FieldDescriptor.CPPTYPE_FLOAT else math.inf)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        if not isinstance(value, bool):
            raise InvalidValue(value, "expected true or false")
        return value
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        assert field.enum_type is not None
        names = field.enum_type.values_by_name
        if not isinstance(value, str) or value not in names:
            raise InvalidValue(value, f"expected one of {', '.join(map(repr, names))}")
        return names[value].number
    return _bytes(value) if field.type == FieldDescriptor.TYPE_BYTES else _text(value)


def _float(value: object, largest: float) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise InvalidValue(value, "expected a number")
    if largest < abs(value) < math.inf:
        raise InvalidValue(value, f"expected a number from {-largest:g} to {largest:g}")
    try:
        return float(value)
    except OverflowError:
        raise InvalidValue(value, "expected a number that is not as large") from None


def _bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        if isinstance(value, str):
            return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise InvalidValue(value, "expected bytes, as text in base64")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidValue(value, "expected text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidValue(value, "expected text that can be written in UTF-8") from None
    return value


def _problem(path: str, value: object, why: str) -> str:
    return f"{path}: {InvalidValue(value, why)}"
