"""Plugin code beside the engine: nothing it does holds up the one who asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from trio_sup.engine._side_tasks import OBEY_TIMEOUT, SideTasks


@asynccontextmanager
async def hosted() -> AsyncIterator[SideTasks]:
    side = SideTasks()
    with trio.fail_after(10_000):
        async with trio.open_nursery() as nursery:
            await nursery.start(side.run_host)
            yield side
            nursery.cancel_scope.cancel()


async def shields(seconds: float) -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep(seconds)


async def returns(value: Any) -> Any:
    await trio.lowlevel.checkpoint()
    return value


async def test_tells_the_value(autojump_clock: trio.testing.MockClock) -> None:
    async with hosted() as side:
        result = await side.run("it", lambda: returns(7), budget=1)
    assert (result.finished, result.value, result.error, result.timed_out) == (True, 7, None, False)


@pytest.mark.parametrize("error", [ValueError("no"), ExceptionGroup("both", [ValueError("a"), KeyError("b")])])
async def test_an_exception_is_a_value(autojump_clock: trio.testing.MockClock, error: Exception) -> None:
    async def raises() -> None:
        raise error

    async with hosted() as side:
        result = await side.run("it", raises, budget=1)
        assert (await side.run("next", lambda: returns(1), budget=1)).value == 1
    assert result.finished
    assert result.error is error


async def test_a_plain_function_is_an_error_too(autojump_clock: trio.testing.MockClock) -> None:
    def not_async() -> Any:
        return 3

    async with hosted() as side:
        assert isinstance((await side.run("it", not_async, budget=1)).error, TypeError)


async def test_gives_up_at_the_end_of_the_budget(autojump_clock: trio.testing.MockClock) -> None:
    async with hosted() as side:
        result = await side.run("it", trio.sleep_forever, budget=3)
        assert trio.current_time() == pytest.approx(3.0)
        assert (result.finished, result.timed_out, result.error) == (False, True, None)
        assert side.stuck == ()


async def test_goes_on_without_one_that_shields_and_names_it(autojump_clock: trio.testing.MockClock) -> None:
    async with hosted() as side:
        began = trio.current_time()
        result = await side.run("sulks", lambda: shields(1000), budget=3)
        assert trio.current_time() - began == pytest.approx(3 + OBEY_TIMEOUT)
        assert (result.finished, result.timed_out) == (False, True)
        assert list(side.stuck) == ["sulks"]
        await trio.sleep(1001)
        assert not side.stuck


async def test_the_host_waits_for_one_that_is_stuck(autojump_clock: trio.testing.MockClock) -> None:
    async with hosted() as side:
        began = trio.current_time()
        await side.run("sulks", lambda: shields(1000), budget=3)
    assert trio.current_time() - began == pytest.approx(1000)


async def test_ends_early_when_it_is_not_needed_any_more(autojump_clock: trio.testing.MockClock) -> None:
    async with hosted() as side:
        result = await side.run("it", trio.sleep_forever, budget=10, cancel_when=lambda: trio.sleep(2))
        assert trio.current_time() == pytest.approx(2)
        assert (result.finished, result.timed_out) == (False, False)
        assert (await side.run("it", lambda: returns(1), budget=10, cancel_when=trio.sleep_forever)).value == 1
        assert trio.current_time() == pytest.approx(2)


async def test_an_answer_after_the_budget_does_not_count(autojump_clock: trio.testing.MockClock) -> None:
    async def late() -> str:
        try:
            await trio.sleep_forever()
        finally:
            return "ready"  # noqa: B012  # the vice under test

    async with hosted() as side:
        result = await side.run("it", late, budget=1)
    assert (result.finished, result.timed_out, result.value) == (False, True, None)


async def test_tells_what_was_raised_on_being_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    async def breaks() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("while cleaning up")

    async def breaks_in_company() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(breaks)
            nursery.start_soon(trio.sleep_forever)

    async with hosted() as side:
        result = await side.run("it", breaks, budget=1)
        assert isinstance(result.error, ValueError)
        assert (result.finished, result.timed_out) == (False, True)
        assert isinstance((await side.run("it", breaks_in_company, budget=1)).error, ExceptionGroup)


async def test_cancelling_the_caller_cancels_the_task(autojump_clock: trio.testing.MockClock) -> None:
    cancelled_at = []

    async def notes() -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled_at.append(trio.current_time())

    async with hosted() as side:
        with trio.move_on_after(2):
            await side.run("it", notes, budget=100)
        assert trio.current_time() == pytest.approx(2)
        await trio.testing.wait_all_tasks_blocked()
        assert cancelled_at == [pytest.approx(2)]
        assert side.stuck == ()


async def test_cancelling_the_caller_does_not_wait_for_one_that_shields(autojump_clock: trio.testing.MockClock) -> None:
    async with hosted() as side:
        began = trio.current_time()
        with trio.move_on_after(2):
            await side.run("sulks", lambda: shields(1000), budget=100)
        assert trio.current_time() - began == pytest.approx(2)
        assert side.stuck == ("sulks",)


class Worse(BaseException):
    """What is no Exception, such as the CancelledError of asyncio."""


class Unpresentable(Exception):
    def __str__(self) -> str:
        raise AttributeError("no detail")


async def cancelled_once() -> trio.Cancelled:
    """A cancellation that is over, as a cache would keep it that remembers how its work went."""
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.sleep_forever()
        except trio.Cancelled as cancelled:
            kept = cancelled
    return kept


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (SystemExit(3), "SystemExit(3)"),
        (Worse("no"), "Worse('no')"),
        (BaseExceptionGroup("both", [SystemExit(3), ValueError("no")]), "BaseExceptionGroup('both', "),
        (Unpresentable(), "Unpresentable, which cannot be shown"),
        (None, "Cancelled("),
    ],
)
async def test_what_is_no_exception_or_cannot_be_shown_is_a_value_too(
    autojump_clock: trio.testing.MockClock, error: BaseException | None, shown: str
) -> None:
    async def raises() -> None:
        raise error or await cancelled_once()

    async with hosted() as side:
        result = await side.run("it", raises, budget=1)
        assert (await side.run("next", lambda: returns(1), budget=1)).value == 1
    assert result.finished
    assert isinstance(result.error, Exception)
    assert repr(result.error).startswith(shown)
    assert str(result.error)


async def test_an_interrupt_ends_the_host(autojump_clock: trio.testing.MockClock) -> None:
    async def raises() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(raises_error)
            raise KeyboardInterrupt

    async def raises_error() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError

    results = []

    async def host() -> None:
        async with hosted() as side:
            with trio.CancelScope(shield=True):
                results.append(await side.run("it", raises, budget=1))
            await trio.sleep_forever()

    with pytest.raises(BaseExceptionGroup) as caught:
        await host()
    assert caught.value.split(KeyboardInterrupt)[1] is None
    assert [result.error is None for result in results] == [False]


async def test_the_end_of_the_host_is_no_success(autojump_clock: trio.testing.MockClock) -> None:
    side = SideTasks()
    async with trio.open_nursery() as nursery:
        assert (await side.run("too early", lambda: returns(1), budget=1)).error is not None
        await nursery.start(side.run_host)
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            result = await side.run("it", trio.sleep_forever, budget=1)
            assert not result.finished
            assert result.error is not None
    result = await side.run("too late", lambda: returns(1), budget=1)
    assert not result.finished
    assert isinstance(result.error, RuntimeError)


async def test_a_failing_company_of_the_hosts_cancellation_stays_inside(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A group of Cancelled and ValueError must not leave its ValueError in the host."""

    async def breaks() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError

    async def both() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(breaks)
            nursery.start_soon(trio.sleep_forever)

    async with trio.open_nursery() as around:
        side = SideTasks()
        await around.start(side.run_host)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: side.run("it", both, budget=10))
            await trio.testing.wait_all_tasks_blocked()
            around.cancel_scope.cancel()
