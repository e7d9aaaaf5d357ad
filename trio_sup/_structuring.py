"""Tables (from TOML, JSON or keyword options) into attrs classes: strictly, with every problem at once and its path.

cattrs is imported only when there is something to structure.
"""

from __future__ import annotations

import enum
import functools
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, cast, get_args, get_origin

import attrs

from ._wording import instead_of
from .errors import InvalidValue, TrioSupError

if TYPE_CHECKING:
    from cattrs import Converter

T = TypeVar("T")

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
# How a complaint that an attrs class itself makes names its field: "grace: …" (ours) or "'grace' …" (attrs validators).
_ABOUT_FIELD = re.compile(r"(?:'(\w+)' |(\w+): )(.+)", re.DOTALL)


@attrs.define(slots=False, eq=False)
class InvalidTable(TrioSupError, ValueError):
    """A table that does not fit its class.

    Attributes:
        path: Where the table stands, such as ``backends.chat``; empty for the outermost one.
        problems: All of them, each beginning with its own path.
    """

    path: str
    problems: Sequence[str]

    def __str__(self) -> str:
        return "; ".join(self.problems)


def structure(cls: type[T], table: Mapping[str, Any], path: str = "") -> T:
    """Make a *cls* (an attrs class) from *table*.

    Nothing is converted silently: text is no number, a number is no text, text is no list. A field's own converter
    decides what the field accepts (it must be a pure function: it is called twice). A table for a field whose type is
    an attrs class becomes that class first. Values that already have the right type are taken as they are.

    Args:
        cls: Its fields are the known keys; the ones without a default are required.
        path: Prefix of the paths in the problems.

    Raises:
        InvalidTable: Some keys are unknown or missing, or some values do not fit.
        cattrs.StructureHandlerNotFoundError: *cls* has a field of a type that no table can give.
    """
    from cattrs import StructureHandlerNotFoundError

    try:
        return _converter().structure(table, cls)
    except StructureHandlerNotFoundError:
        raise
    except Exception as error:
        raise InvalidTable(path, problems_of(error, path)) from error


def problems_of(error: BaseException, path: str = "") -> list[str]:
    """Lines such as ``backends.chat.grace: a duration must not be negative (got -1)``, one for each thing wrong.

    Args:
        error: What structuring, or the call of an attrs class, raised.
        path: Where the structured value stands; prefixed to the path of every problem.
    """
    return _problems(error, path, None)


def _problems(error: BaseException, path: str, cls: type | None) -> list[str]:
    """*cls* is the class that made the complaint about one of its own fields, if it is one."""
    from cattrs.errors import ClassValidationError, ForbiddenExtraKeysError, IterableValidationError

    if isinstance(error, InvalidTable):
        return [f"{path}.{problem}" if path else problem for problem in error.problems]
    if isinstance(error, ForbiddenExtraKeysError):
        return [
            _line(below(path, key), f"unknown key{_near(key, _keys(error.cl))}")
            for key in sorted(map(str, error.extra_fields))
        ]
    if isinstance(error, ClassValidationError):
        noted, own = error.group_exceptions()
        lines = []
        for inner, note in noted:
            place = below(path, note.name)
            if isinstance(inner, KeyError) and inner.args == (note.name,):
                lines.append(_line(place, "missing"))
            else:
                lines += _without_prefix(_problems(inner, place, None), place, note.name)
        return lines + [line for inner in own for line in _problems(inner, path, error.cl)]
    if isinstance(error, IterableValidationError):
        items, own = error.group_exceptions()
        return [
            *(line for inner, note in items for line in _problems(inner, below(path, note.index), None)),
            *(line for inner in own for line in _problems(inner, path, None)),
        ]
    text = _text(error)
    if cls is not None and (match := _ABOUT_FIELD.fullmatch(text)):
        name = match[1] or match[2]
        if name in _keys(cls):
            return [_line(below(path, name), match[3])]
    return [_line(path, text)]


def _without_prefix(lines: list[str], path: str, field: str) -> list[str]:
    """A converter that names its field, for those who call the class themselves, would name it twice here."""
    prefix = f"{path}: {field}: "
    return [f"{path}: {line.removeprefix(prefix)}" if line.startswith(prefix) else line for line in lines]


def _text(error: BaseException) -> str:
    if isinstance(error, TrioSupError):
        return str(error)
    # The validators of attrs put the field and the value behind their message.
    text = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
    return text if isinstance(error, (ValueError, TypeError)) and text else f"{type(error).__name__}: {text}"


def _line(path: str, text: str) -> str:
    return f"{path}: {text}" if path else text


def below(path: str, key: str | int) -> str:
    if isinstance(key, int):
        return f"{path}[{key}]"
    if not _BARE_KEY.fullmatch(key):
        return f"{path}[{key!r}]"
    return f"{path}.{key}" if path else key


def _near(key: str, known: Sequence[str]) -> str:
    return f"; {instead_of(key, known)}" if known else "; none is known here"


def _keys(cls: type) -> list[str]:
    return [field.name for field in attrs.fields(cls) if field.init] if attrs.has(cls) else []


# ---- the converter


@functools.cache
def _converter() -> Converter:
    from cattrs import Converter
    from cattrs.cols import is_frozenset, is_mapping, is_sequence, is_set

    converter = Converter(forbid_extra_keys=True, detailed_validation=True, prefer_attrib_converters=True)
    for wanted, (types, what) in _STRICT.items():
        converter.register_structure_hook(wanted, functools.partial(_strict, types=types, what=what))
    converter.register_structure_hook(Path, _path)
    converter.register_structure_hook_func(_is_union_of_strict, _union)
    converter.register_structure_hook_func(_is_literal, _literal)
    converter.register_structure_hook_func(_is_enum, _enum)
    converter.register_structure_hook_factory(_any_of(is_sequence, is_set, is_frozenset), _sequence_hook)
    converter.register_structure_hook_factory(is_mapping, _mapping_hook)
    converter.register_structure_hook_factory(attrs.has, _class_hook)
    return converter


_STRICT: dict[type, tuple[tuple[type, ...], str]] = {
    int: ((int,), "a whole number"),
    float: ((float, int), "a number"),
    str: ((str,), "text"),
    bool: ((bool,), "true or false"),
}


def _strict(value: Any, wanted: Any, *, types: tuple[type, ...], what: str) -> Any:
    # For Python, True is a number.
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise InvalidValue(value, f"expected {what}")
    return wanted(value)


def _is_union_of_strict(kind: Any) -> bool:
    # One type and None is left to cattrs.
    members = [member for member in get_args(kind) if member is not NoneType]
    return get_origin(kind) in (Union, UnionType) and len(members) > 1 and all(member in _STRICT for member in members)


def _union(value: Any, kind: Any) -> Any:
    members = get_args(kind)
    if value is None and NoneType in members:
        return None
    known = [_STRICT[member] for member in members if member is not NoneType]
    types = tuple(itertools.chain.from_iterable(types for types, _ in known))
    return _strict(value, type(value), types=types, what=" or ".join(what for _, what in known))


def _path(value: Any, _: Any) -> Path:
    if not isinstance(value, (str, Path)) or not str(value) or "\0" in str(value):
        raise InvalidValue(value, "expected a path")
    return Path(value)


def _one_of(value: Any, choices: Sequence[Any]) -> Any:
    # By type as well: 1, 1.0 and True are equal.
    for choice in choices:
        if type(value) is type(choice) and value == choice:
            return choice
    raise InvalidValue(value, f"expected one of {', '.join(map(repr, choices))}")


def _is_literal(kind: Any) -> bool:
    origin: Any = get_origin(kind)
    return origin is Literal


def _literal(value: Any, kind: Any) -> Any:
    return _one_of(value, get_args(kind))


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, enum.Enum)


def _enum(value: Any, kind: type[enum.Enum]) -> Any:
    return value if isinstance(value, kind) else kind(_one_of(value, [member.value for member in kind]))


def _any_of(*predicates: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda kind: any(predicate(kind) for predicate in predicates)


def _sequence_hook(kind: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    from cattrs.cols import list_structure_factory

    element = (*get_args(kind), Any)[0]
    origin = get_origin(kind) or kind
    # An abstract kind gets the frozen form: values are not to be changed.
    make = origin if origin in (list, tuple, set, frozenset) else tuple
    # The element type is known only here: no annotation can say it.
    to_list = list_structure_factory(cast(Any, list)[element], converter)

    def to_sequence(value: Any, _: Any) -> Any:
        if not isinstance(value, (list, tuple, set, frozenset)):
            raise InvalidValue(value, "expected a list")
        return make(to_list(value, kind))

    return to_sequence


def _mapping_hook(kind: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    from cattrs.cols import mapping_structure_factory

    return _only_for_tables(mapping_structure_factory(kind, converter))


def _class_hook(cls: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    from cattrs.gen import make_dict_structure_fn, override

    attrs.resolve_types(cls)
    converted: dict[str, Any] = {
        field.name: override(struct_hook=_field_hook(field, converter))
        for field in attrs.fields(cls)
        if field.init and field.converter is not None
    }
    inner = _only_for_tables(make_dict_structure_fn(cls, converter, **converted))
    return lambda value, kind: value if isinstance(value, cls) else inner(value, kind)


def _only_for_tables(inner: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def from_table(value: Any, kind: Any) -> Any:
        if not isinstance(value, Mapping):
            raise InvalidValue(value, "expected a table")
        return inner(value, kind)

    return from_table


def _field_hook(field: attrs.Attribute[Any], converter: Converter) -> Callable[[Any, Any], Any]:
    """Let the field's converter judge the value here, while problems are still collected.

    The class would call it too, but stop at the first field it does not like.
    """
    convert: Any = field.converter
    kinds = (field.type, *get_args(field.type))
    nested = next((kind for kind in kinds if isinstance(kind, type) and attrs.has(kind)), None)

    def judge(value: Any, _: Any) -> Any:
        if nested is not None and isinstance(value, Mapping):
            value = converter.structure(value, nested)
        if not isinstance(field.converter, attrs.Converter):
            convert(value)
        elif not convert.takes_self:  # one that looks at the half-made object can only be called by the class
            convert.converter(value, *([field] if convert.takes_field else []))
        return value

    return judge
