"""Who asked for an end: in the event, in the exit report and in its line."""

from __future__ import annotations

import signal
import sys

import pytest
import trio
from trio.testing import MockClock

import trio_sup
from tests.conftest import next_of
from trio_sup import BackendSpec, Cause, ExitStatus, InvalidValue, events
from trio_sup.testing import FakeBackend, FakeSystem

SPEC = BackendSpec(name="store", command=[sys.executable, "-c", "pass"])
SLOW = FakeBackend(stops_after=3.0)


async def test_the_reason_of_a_stop_is_in_the_event_and_in_the_report(autojump_clock: MockClock) -> None:
    async with trio_sup.open_supervisor(system=FakeSystem(), install_lock="memory") as sup:
        await sup.start(SPEC)
        stream = sup.events()
        (result,) = await sup.stop("store", reason="deploy of version 12")
        event = await next_of(stream, events.BackendStopping)
    assert event.detail == "deploy of version 12"
    assert str(event) == "store#0 stops: asked to stop (deploy of version 12)"
    assert result.report is not None
    assert result.report.asked_by == "deploy of version 12"
    assert str(result.report) == "store#0 (asked to stop: deploy of version 12): killed by SIGTERM"


async def test_without_a_reason_none_is_told(autojump_clock: MockClock) -> None:
    async with trio_sup.open_supervisor(system=FakeSystem(), install_lock="memory") as sup:
        await sup.start(SPEC)
        stream = sup.events()
        (result,) = await sup.stop("store")
        assert (await next_of(stream, events.BackendStopping)).detail == ""
    assert result.report is not None
    assert result.report.asked
    assert result.report.asked_by is None
    assert str(result.report) == "store#0 (asked to stop): killed by SIGTERM"


async def test_stopping_everything_has_a_reason_too(autojump_clock: MockClock) -> None:
    async with trio_sup.open_supervisor(system=FakeSystem(), install_lock="memory") as sup:
        for replica in range(2):
            await sup.start(SPEC, replica=replica)
        results = await sup.stop_all(reason="the night shift")
    assert [result.report.asked_by for result in results if result.report] == ["the night shift"] * 2


async def test_the_reason_of_the_first_stop_counts(autojump_clock: MockClock) -> None:
    async with trio_sup.open_supervisor(system=FakeSystem(SLOW), install_lock="memory") as sup:
        await sup.start(SPEC)
        async with trio.open_nursery() as nursery:

            async def stop(reason: str, after: float) -> None:
                await trio.sleep(after)
                (result,) = await sup.stop("store", reason=reason)
                assert result.report is not None
                assert result.report.asked_by == "the first"

            nursery.start_soon(stop, "the first", 0.0)
            nursery.start_soon(stop, "the second", 1.0)


async def test_an_end_that_nobody_asked_for_gets_no_reason_from_a_stop_that_comes_too_late(
    autojump_clock: MockClock,
) -> None:
    system = FakeSystem(FakeBackend(exit_code=3))
    async with trio_sup.open_supervisor(system=system, install_lock="memory") as sup:
        await sup.start(SPEC)
        stream = sup.events()
        system.children[0].exit()
        await next_of(stream, events.BackendStopping)
        await sup.stop("store", reason="too late")
        (report,) = sup.exit_reports("store#0")
    assert (report.cause, report.status, report.asked_by) == (Cause.EXITED, ExitStatus(code=3), None)


async def test_the_shutdown_has_a_reason_if_one_was_given(autojump_clock: MockClock) -> None:
    async with trio_sup.open_supervisor(system=FakeSystem(), install_lock="memory") as sup:
        await sup.start(SPEC)
        sup.shutdown_reason = signal.SIGTERM.name
    (report,) = sup.exit_reports("store#0")
    assert (report.cause, report.asked_by) == (Cause.SHUTDOWN, "SIGTERM")


@pytest.mark.parametrize("reason", ["", "  ", "two\nlines", "\x1b[31m", "x" * 201, 5, b"bytes"])
async def test_a_reason_that_is_no_line_is_refused_and_nothing_is_stopped(
    reason: object, autojump_clock: MockClock
) -> None:
    async with trio_sup.open_supervisor(system=FakeSystem(), install_lock="memory") as sup:
        await sup.start(SPEC)
        with pytest.raises(InvalidValue, match="at most 200 characters"):
            await sup.stop("store", reason=reason)  # type: ignore[arg-type]
        with pytest.raises(InvalidValue, match="at most 200 characters"):
            await sup.stop_all(reason=reason)  # type: ignore[arg-type]
        with pytest.raises(InvalidValue, match="at most 200 characters"):
            sup.shutdown_reason = reason  # type: ignore[assignment]
        assert sup.is_running("store")
        await sup.stop("store", reason="x" * 200)


async def test_a_reason_does_not_show_where_a_process_had_ended_before(autojump_clock: MockClock) -> None:
    async with trio_sup.open_supervisor(system=FakeSystem(), install_lock="memory") as sup:
        assert await sup.stop("nothing of that name", reason="in vain") == ()
