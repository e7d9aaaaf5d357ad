"""What classes of options have in common: a complaint says which field it is about."""

from __future__ import annotations

from typing import Any

import attrs

from .errors import InvalidValue, TrioSupError


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
    convert: Any = given.converter if full else given

    def wrapped(value: Any, *more: Any) -> Any:
        try:
            return convert(value, *more)
        except InvalidValue as error:
            why = error.why
            if why.startswith(f"{field.name}: "):  # it names itself, or the class this one inherits from does it
                raise
            raise InvalidValue(error.value, f"{field.name}: {why}") from None
        except TrioSupError:
            raise
        except (TypeError, ValueError) as error:
            raise InvalidValue(value, f"{field.name}: {error}") from error

    named: Any = wrapped
    if full:
        named = attrs.Converter(wrapped, takes_self=given.takes_self, takes_field=given.takes_field)
    return field.evolve(converter=named)  # type: ignore[no-any-return,attr-defined,unused-ignore]  # not in stubs
