"""What options have in common: a complaint says which of them it is about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import attrs

from .errors import InvalidValue, TrioSupError

T = TypeVar("T")


def named(name: str, convert: Callable[..., T]) -> Callable[..., T]:
    """Wrap one converter, of a field or an argument, as `complaints_name_fields` wraps those of a class."""

    def wrapped(value: Any, *more: Any) -> T:
        try:
            return convert(value, *more)
        except InvalidValue as error:
            if error.why.startswith(f"{name}: "):  # it names itself, or the class this one inherits from does it
                raise
            raise InvalidValue(error.value, f"{name}: {error.why}") from None
        except TrioSupError:
            raise
        except (TypeError, ValueError) as error:
            raise InvalidValue(value, f"{name}: {error}") from error

    return wrapped


def complaints_name_fields(cls: type, fields: list[attrs.Attribute[Any]]) -> list[attrs.Attribute[Any]]:
    """Wrap every converter of an attrs class so that its complaint names the field it is about.

    To be given as ``field_transformer``. What a converter raises becomes an `InvalidValue` whose text begins with the
    name of the field: ``patience: a duration must not be negative (got -1)``. A `TypeError` or `ValueError` of a
    converter such as `int` becomes one, too; other errors stay what they are.
    """
    return [_naming(field) for field in fields]


def _naming(field: attrs.Attribute[Any]) -> attrs.Attribute[Any]:
    given: Any = field.converter
    if given is None:
        return field
    full = isinstance(given, attrs.Converter)  # one that may want the object or the field as well
    converter: Any = named(field.name, given.converter if full else given)
    if full:
        converter = attrs.Converter(converter, takes_self=given.takes_self, takes_field=given.takes_field)
    return field.evolve(converter=converter)  # type: ignore[no-any-return,attr-defined,unused-ignore]  # not in stubs
