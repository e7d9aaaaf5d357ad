"""Tables into classes: strictly, with every problem at once and its path."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_sup import BackendSpec, InvalidValue
from trio_sup._structuring import InvalidTable, problems_of, structure
from trio_sup._units import seconds


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@attrs.frozen(kw_only=True)
class Inner:
    size: int
    colour: Colour = Colour.RED


@attrs.frozen(kw_only=True)
class Outer:
    inner: Inner | None = None
    inners: Mapping[str, Inner] = attrs.field(factory=dict)
    rows: Sequence[Inner] = ()
    names: tuple[str, ...] = ()
    codes: frozenset[int] = frozenset()
    mode: Literal["fast", 1] = "fast"
    where: Path | None = None
    ratio: float = 0.5
    either: int | str | None = None
    wait: float = attrs.field(default=1.0, converter=seconds)
    limit: int = attrs.field(default=3, validator=attrs.validators.ge(0))
    on: bool = False
    backends: Mapping[str, BackendSpec] = attrs.field(factory=dict)


def problems(table: Any, path: str = "") -> list[str]:
    with pytest.raises(InvalidTable) as caught:
        structure(Outer, table, path)
    assert caught.value.path == path
    return list(caught.value.problems)


def test_a_table_becomes_its_class() -> None:
    table = {
        "inner": {"size": 1, "colour": "blue"},
        "inners": {"a": {"size": 2}},
        "rows": [{"size": 3}],
        "names": ["x"],
        "codes": [1, 1],
        "mode": 1,
        "where": "/tmp",
        "ratio": 2,
        "either": "x",
        "wait": "2m",
        "on": True,
        "backends": {"b": {"name": "b", "command": ["b"], "readiness": {"probe": "tcp", "timeout": "3s"}}},
    }
    made = structure(Outer, table)
    assert made == Outer(
        inner=Inner(size=1, colour=Colour.BLUE),
        inners={"a": Inner(size=2)},
        rows=(Inner(size=3),),
        names=("x",),
        codes=frozenset({1}),
        mode=1,
        where=Path("/tmp"),
        ratio=2.0,
        either="x",
        wait=120.0,
        on=True,
        backends=made.backends,
    )
    assert isinstance(made.ratio, float)
    assert made.backends["b"].readiness.timeout == 3.0


def test_values_that_are_right_already_are_taken_as_they_are() -> None:
    inner = Inner(size=1)
    assert structure(Outer, {"inner": inner, "where": Path("/x"), "either": None}).inner is inner


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"ratio": "1"}, "ratio: expected a number (got '1')"),
        ({"ratio": True}, "ratio: expected a number (got True)"),
        ({"limit": 1.0}, "limit: expected a whole number (got 1.0)"),
        ({"limit": True}, "limit: expected a whole number (got True)"),
        ({"limit": -1}, "limit: must be >= 0: -1"),
        ({"on": 1}, "on: expected true or false (got 1)"),
        ({"on": "yes"}, "on: expected true or false (got 'yes')"),
        ({"names": "abc"}, "names: expected a list (got 'abc')"),
        ({"names": ["a", 3]}, "names[1]: expected text (got 3)"),
        ({"codes": {"a": 1}}, "codes: expected a list (got {'a': 1})"),
        ({"mode": True}, "mode: expected one of 'fast', 1 (got True)"),
        ({"where": 3}, "where: expected a path (got 3)"),
        ({"where": ""}, "where: expected a path (got '')"),
        ({"either": 1.5}, "either: expected a whole number or text (got 1.5)"),
        ({"either": False}, "either: expected a whole number or text (got False)"),
        ({"wait": -1}, "wait: a duration must not be negative (got -1)"),
        ({"inner": 3}, "inner: expected a table (got 3)"),
        ({"inner": {}}, "inner.size: missing"),
        ({"inner": {"size": 1, "colour": "green"}}, "inner.colour: expected one of 'red', 'blue' (got 'green')"),
        ({"inners": []}, "inners: expected a table (got [])"),
        ({"inners": {"a.b": {"size": "x"}}}, "inners['a.b'].size: expected a whole number (got 'x')"),
        ({"rows": [{"size": 1, "colors": 3}]}, "rows[0].colors: unknown key; did you mean 'colour'?"),
        ({"rows": [{"size": 1, "zzz": 3}]}, "rows[0].zzz: unknown key; known are size, colour"),
        ([], "expected a table (got [])"),
    ],
)
def test_a_problem_is_told_with_its_path(table: Any, problem: str) -> None:
    assert problems(table) == [problem]


def test_all_problems_are_told_at_once_also_those_of_converters() -> None:
    backend = {"name": "-", "command": "x", "grace": -1, "readiness": {"timeout": 0, "tiemout": 1}, "colour": "red"}
    assert sorted(problems({"backends": {"chat": backend}, "wait": "x", "on": 3}, "conf")) == [
        "conf.backends.chat.colour: unknown key; known are "
        + ", ".join(field.name for field in attrs.fields(BackendSpec)),
        "conf.backends.chat.command: a command is a list: the program and its arguments (got 'x')",
        "conf.backends.chat.grace: a duration must not be negative (got -1)",
        "conf.backends.chat.name: a backend name starts with a letter or digit, "
        "then letters, digits and . _ + - (got '-')",
        "conf.backends.chat.readiness.tiemout: unknown key; did you mean 'timeout'?",
        "conf.backends.chat.readiness.timeout: must be longer than 0 seconds (got 0)",
        "conf.on: expected true or false (got 3)",
        'conf.wait: expected a duration: seconds as a number, or text such as "30s", "500ms", "1m30s" (got \'x\')',
    ]


def test_the_message_of_a_table_that_does_not_fit_has_all_its_problems() -> None:
    with pytest.raises(InvalidTable, match=r"^limit: .*; on: .*$"):
        structure(Outer, {"limit": "x", "on": "y"})


def test_a_class_called_by_hand_names_its_field_once() -> None:
    with pytest.raises(InvalidValue) as caught:
        BackendSpec(name="b", command=["b"], grace=-1)
    assert problems_of(caught.value, "backends.b") == ["backends.b: grace: a duration must not be negative (got -1)"]


def test_a_converter_that_needs_the_object_is_left_to_the_class() -> None:
    def add(value: int, self: Any) -> int:
        return value + int(self.first)

    converter: Any = attrs.Converter(add, takes_self=True)

    @attrs.frozen
    class Sum:
        first: int
        both: int = attrs.field(converter=converter)  # type: ignore[misc]  # the plugin of mypy cannot see through it

    assert structure(Sum, {"first": 1, "both": 2}).both == 3


def test_other_errors_are_named_by_their_type() -> None:
    assert problems_of(KeyError("x"), "a") == ["a: KeyError: x"]
    assert problems_of(ValueError(), "a") == ["a: ValueError: "]
    assert problems_of(TypeError("no such thing")) == ["no such thing"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from([field.name for field in attrs.fields(Outer)])


@given(st.dictionaries(KEYS | st.text(max_size=5), JSON, max_size=5))
def test_whatever_the_table_there_is_a_value_or_a_list_of_problems(table: dict[str, Any]) -> None:
    try:
        assert isinstance(structure(Outer, table), Outer)
    except InvalidTable as error:
        assert error.problems  # noqa: PT017  # either way out is right
