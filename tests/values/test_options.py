"""Complaints of classes of options name the field they are about."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from trio_sup import InvalidValue
from trio_sup._structuring import InvalidTable, structure
from trio_sup.strategies import complaints_name_fields, seconds


def a_table(value: object) -> object:
    raise InvalidTable("nested", ["nested.one: missing", "nested.two: missing"])


@attrs.frozen(kw_only=True, field_transformer=complaints_name_fields)
class Options:
    patience: float = attrs.field(default=2.0, converter=seconds)
    limit: int = attrs.field(default=1, converter=int, validator=attrs.validators.ge(0))
    optional: float | None = attrs.field(default=None, converter=attrs.converters.optional(seconds))
    piped: int = attrs.field(default=1, converter=attrs.converters.pipe(float, int))  # type: ignore[misc]  # mypy is lost
    nested: Any = attrs.field(default=None, converter=attrs.converters.optional(a_table))
    plain: str = "as it is"


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"patience": -1}, "patience: a duration must not be negative (got -1)"),
        ({"limit": "x"}, "limit: invalid literal for int() with base 10: 'x' (got 'x')"),
        ({"limit": None}, "limit: int() argument must be a string, a bytes-like object or a real number"),
        ({"optional": "soon"}, "optional: expected a duration"),
        ({"piped": "y"}, "piped: could not convert string to float: 'y' (got 'y')"),
    ],
)
def test_a_complaint_of_a_converter_names_the_field(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        Options(**given)
    assert str(caught.value).startswith(complaint)
    assert caught.value.value == next(iter(given.values()))


def test_values_that_fit_are_converted_as_before() -> None:
    options = Options(patience="1m", limit="3", optional="2s", piped="4.5")
    assert (options.patience, options.limit, options.optional, options.piped) == (60.0, 3, 2.0, 4)
    assert Options() == Options(patience=2, nested=None)


def test_errors_of_other_kinds_stay_what_they_are() -> None:
    with pytest.raises(InvalidTable) as caught:
        Options(nested=1)
    assert len(caught.value.problems) == 2
    with pytest.raises(ValueError, match="'limit' must be >= 0"):
        Options(limit=-1)


def test_a_converter_that_wants_object_and_field_gets_them() -> None:
    def check(value: object, owner: Any, field: Any) -> object:
        if value == "bad":
            raise InvalidValue(value, f"{type(owner).__name__} does not like it")
        return value, field.name

    @attrs.frozen(field_transformer=complaints_name_fields)
    class Wants:
        one: Any = attrs.field(converter=attrs.Converter(check, takes_self=True, takes_field=True))  # type: ignore[misc]  # mypy is lost

    assert Wants("good").one == ("good", "one")
    with pytest.raises(InvalidValue, match=r"^one: Wants does not like it"):
        Wants("bad")


def test_an_inherited_field_is_named_once() -> None:
    @attrs.frozen(kw_only=True, field_transformer=complaints_name_fields)
    class More(Options):
        other: float = attrs.field(default=0.0, converter=seconds)

    with pytest.raises(InvalidValue, match=r"^patience: a duration"):
        More(patience=-1)
    with pytest.raises(InvalidValue, match=r"^other: a duration"):
        More(other=-1)


def test_every_complaint_of_a_table_has_its_path_once() -> None:
    with pytest.raises(InvalidTable) as caught:
        structure(Options, {"patience": -1, "limit": "x", "piped": "y"}, "stop_policy")
    assert sorted(problem.partition(" (")[0] for problem in caught.value.problems) == [
        "stop_policy.limit: invalid literal for int() with base 10: 'x'",
        "stop_policy.patience: a duration must not be negative",
        "stop_policy.piped: could not convert string to float: 'y'",
    ]
