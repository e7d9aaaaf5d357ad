"""P8, every end has a cause: what ended it, who asked, with which code or signal, in which phase, and its last words.

How reports outlive the supervisor, and what speaks for want of memory, is tested in `tests/state/`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable

import pytest
import trio

import trio_sup
from tests.conftest import next_of
from trio_sup import BackendSpec, Cause, ExitReport, Phase, Readiness, events

from .backends import spec_of, until

pytestmark = pytest.mark.usefixtures("nothing_survives")

SOON = Readiness(probe="tcp", timeout=1)
End = Callable[[trio_sup.Supervisor], Awaitable[None]]


async def _dies_while_starting(sup: trio_sup.Supervisor) -> None:
    with pytest.raises(trio_sup.DiedDuringStartup):
        await sup.start(spec_of("dies_before_ready"), model="m")


async def _misses_its_deadline(sup: trio_sup.Supervisor) -> None:
    readiness = Readiness(timeout=1, call_timeout=0.3)
    with pytest.raises(trio_sup.NotReadyInTime):
        await sup.start(spec_of("raw_garbage", "--kind", "http1", readiness=readiness, grace=0.2), model="m")


async def _is_killed_by_somebody(sup: trio_sup.Supervisor) -> None:
    backend = await sup.start(spec_of("listens"), model="m")
    stream = sup.events()
    assert backend.pid is not None
    os.kill(backend.pid, signal.SIGKILL)
    await until(stream, events.BackendGone, "m#0")


async def _segfaults(sup: trio_sup.Supervisor) -> None:
    backend = await sup.start(spec_of("listens"), model="m")
    stream = sup.events()
    assert backend.pid is not None
    os.kill(backend.pid, signal.SIGSEGV)
    await until(stream, events.BackendGone, "m#0")


async def _is_asked(sup: trio_sup.Supervisor) -> None:
    await sup.start(spec_of("listens", "--code", "7"), model="m")
    await sup.stop("m", reason="the test asks")


async def _has_to_be_killed(sup: trio_sup.Supervisor) -> None:
    await sup.start(spec_of("ignores_sigterm", grace=0.2), model="m")
    await sup.stop("m")


async def _dies_while_it_stops(sup: trio_sup.Supervisor) -> None:
    backend = await sup.start(spec_of("ignores_sigterm", grace=20), model="m")
    stream = sup.events()
    assert backend.pid is not None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sup.stop, "m")
        await until(stream, events.BackendStopping, "m#0")
        os.kill(backend.pid, signal.SIGABRT)


async def _is_stopped_while_it_starts(sup: trio_sup.Supervisor) -> None:
    stream = sup.events()

    async def start() -> None:
        with pytest.raises(trio_sup.StoppedDuringStartup):
            await sup.start(spec_of("never_listens", grace=1), model="m")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(start)
        await until(stream, events.BackendStarting, "m#0")
        await sup.stop("m")


async def _is_abandoned(sup: trio_sup.Supervisor) -> None:
    stream = sup.events()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: sup.start(spec_of("never_listens", grace=1), model="m"))
        await until(stream, events.BackendStarting, "m#0")
        nursery.cancel_scope.cancel()
    await until(stream, events.BackendGone, "m#0")


async def _is_replaced(sup: trio_sup.Supervisor) -> None:
    await sup.start(spec_of("listens", grace=3), model="m")
    await sup.start(spec_of("listens", grace=4), model="m", replace=True)


async def _finds_its_port_taken(sup: trio_sup.Supervisor) -> None:
    await sup.start(spec_of("binds_without_reuse"), model="m")


ENDS: dict[End, tuple[Cause, Phase, str, bool, bool]] = {
    _dies_while_starting: (Cause.EXITED, Phase.STARTING, "exit code 3", False, False),
    _misses_its_deadline: (Cause.DEADLINE, Phase.STARTING, "killed by SIGTERM", False, False),
    _is_killed_by_somebody: (Cause.EXITED, Phase.READY, "killed by SIGKILL", False, False),
    _segfaults: (Cause.EXITED, Phase.READY, "killed by SIGSEGV", False, False),
    _is_asked: (Cause.ASKED, Phase.READY, "exit code 7", True, False),
    _has_to_be_killed: (Cause.ASKED, Phase.READY, "killed by SIGKILL", True, True),
    _dies_while_it_stops: (Cause.ASKED, Phase.READY, "killed by SIGABRT", True, False),
    _is_stopped_while_it_starts: (Cause.ASKED, Phase.STARTING, "killed by SIGTERM", True, False),
    _is_abandoned: (Cause.ABANDONED, Phase.STARTING, "killed by SIGTERM", True, False),
    _is_replaced: (Cause.REPLACED, Phase.READY, "exit code 0", True, False),
    _finds_its_port_taken: (Cause.PORT_TAKEN, Phase.STARTING, "exit code 1", False, False),
}


async def first_report(end: End) -> ExitReport:
    with trio.fail_after(60):
        # Ports that nobody had before: old connections would linger there, in the way of one without SO_REUSEADDR.
        async with trio_sup.open_supervisor(ports="ephemeral") as sup:
            await end(sup)
            return sup.exit_reports("m#0")[0]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__.strip("_"))
async def test_the_report_says_what_ended_it_how_and_when(end: End) -> None:
    report = await first_report(end)
    cause, phase, status, asked, killed = ENDS[end]
    assert (report.cause, report.phase, str(report.status)) == (cause, phase, status)
    assert (report.asked, report.killed) == (asked, killed)
    assert report.survivors == ()
    assert report.traceback is None


async def test_the_report_holds_the_last_words_and_the_last_health_error() -> None:
    report = await first_report(_dies_while_starting)
    assert report.stderr_tail.splitlines() == [f"line {number}" for number in range(10, 30)]
    report = await first_report(_misses_its_deadline)
    assert report.last_health_error
    report = await first_report(_is_asked)
    assert report.asked_by == "the test asks"


async def test_the_end_of_the_supervisor_is_a_cause_that_can_be_read_afterwards() -> None:
    with trio.fail_after(30):
        async with trio_sup.open_supervisor() as sup:
            await sup.start(spec_of("listens"), model="m")
    (report,) = sup.exit_reports("m#0")
    assert (report.cause, str(report.status), report.asked) == (Cause.SHUTDOWN, "exit code 0", True)


async def test_the_last_twenty_are_kept() -> None:
    with trio.fail_after(60):
        async with trio_sup.open_supervisor() as sup:
            for _ in range(23):
                with pytest.raises(trio_sup.DiedDuringStartup):
                    await sup.start(BackendSpec(name="m", command=["false"], readiness=SOON))
            reports = sup.exit_reports("m#0")
    assert len(reports) == 20
    generations = [report.generation for report in reports]
    assert generations == sorted(generations)
    assert {str(report.status) for report in reports} == {"exit code 1"}


async def test_a_status_that_somebody_else_collected_is_not_made_up() -> None:
    with trio.fail_after(30):
        async with trio_sup.open_supervisor() as sup:
            backend = await sup.start(spec_of("listens"), model="m")
            stream = sup.events()
            assert backend.pid is not None
            os.kill(backend.pid, signal.SIGKILL)
            os.waitpid(backend.pid, 0)  # as a careless program would
            gone = await next_of(stream, events.BackendGone)
    assert gone.report is not None
    assert gone.report.cause is Cause.EXITED
    assert gone.report.status is not None
    assert (gone.report.status.code, gone.report.status.signal) in {(None, None), (None, signal.SIGKILL)}
