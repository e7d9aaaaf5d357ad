"""What holds for strategies of every kind."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import attrs
import pytest
import trio

from ..._structuring import InvalidTable, structure
from ...engine._plugins import Kind, Plugins
from .._traces import Traces, marked

T = TypeVar("T")

SYNCHRONOUS_LIMIT = 0.05
"""Seconds above which the engine names a synchronous method as slow."""


def run_real(async_fn: Callable[..., Awaitable[T]], *args: object, limit: float = 60.0) -> T:
    """Run ``async_fn(*args)`` in Trio on the real clock, for at most *limit* seconds."""

    async def bounded() -> T:
        with trio.fail_after(limit):
            return await async_fn(*args)

    return trio.run(bounded)


class LongestStep(trio.abc.Instrument):
    """Measures the longest time for which a task kept all others waiting."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began_at = time.perf_counter()  # it is added in the middle of a step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._began_at = time.perf_counter()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.seconds = max(self.seconds, time.perf_counter() - self._began_at)


async def longest_step(async_fn: Callable[..., Awaitable[object]], *args: object) -> float:
    """Run ``async_fn(*args)``, and tell for how many seconds it blocked the event loop at most."""
    steps = LongestStep()
    trio.lowlevel.add_instrument(steps)
    try:
        await async_fn(*args)
        await trio.lowlevel.checkpoint()
    finally:
        trio.lowlevel.remove_instrument(steps)
    return steps.seconds


@contextmanager
def leaving_nothing(directory: Path) -> Iterator[None]:
    """Afterwards there is no process, port, descriptor, task or file below *directory* more than before."""
    with marked():
        before = Traces.now(directory)
        yield
        survived = Traces.now(directory).beyond(before)
    assert not survived, f"it leaves behind: {'; '.join(survived)}"


def if_promised(attribute: str) -> Callable[[T], T]:
    """Mark a test that holds only for strategies whose contract class promises *attribute*; others do not have it."""

    def mark(test: T) -> T:
        test._promise = attribute  # type: ignore[attr-defined]  # a function takes any attribute
        return test

    return mark


def _is_promised(value: object) -> bool:
    """A duration of 0 is a promise; None and False are none."""
    return value is not None and value is not False


class StrategyContract:
    """What holds for every kind."""

    kind: ClassVar[Kind]
    directory: Path

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name in dir(cls):
            # Not by getattr: a class above may lack a test that this one promises to pass.
            test = next((vars(base)[name] for base in cls.__mro__ if vars(base).get(name) is not None), None)
            promise = getattr(test, "_promise", None)
            if promise is not None and name not in vars(cls):
                # pytest collects no test from None.
                setattr(cls, name, test if _is_promised(getattr(cls, promise, None)) else None)

    def make(self) -> Any:
        """Make the strategy under test: a new one at each call."""
        raise NotImplementedError(f"{type(self).__qualname__} must define make()")

    @pytest.fixture(autouse=True)
    def _own_directory(self, tmp_path: Path) -> None:
        self.directory = tmp_path

    def test_the_engine_takes_it(self) -> None:
        strategy = self.make()
        assert Plugins().make(self.kind, strategy) is strategy

    def test_it_is_an_object_and_each_one_is_new_or_without_state(self) -> None:
        one, other = self.make(), self.make()
        assert not isinstance(one, type)
        assert type(one) is type(other)

    def test_its_options_are_an_attrs_class(self) -> None:
        assert attrs.has(type(self.make())), "options are fields of an attrs class, so that a wrong one is named"

    def test_a_wrong_option_is_named_before_anything_runs(self) -> None:
        with pytest.raises(InvalidTable) as caught:
            structure(type(self.make()), {"no_such_option": 1}, "table")
        assert any("no_such_option" in problem for problem in caught.value.problems)

    def test_it_can_be_shown(self) -> None:
        assert 0 < len(repr(self.make())) < 2000
