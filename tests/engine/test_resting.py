"""What a start and a stop mean for a backend that waits for its restart, was given up, or is being ended unasked."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_sup
from tests.conftest import next_of
from tests.engine.test_lifecycle import KEY, SPEC, supervised, until_phase
from tests.engine.test_restarts import DIES, PATIENT, Policy, all_of, launches, on_failure, phases
from trio_sup import Cause, ExitStatus, Phase, events
from trio_sup.strategies import RestartAfter
from trio_sup.testing import FakeBackend

# ---- an explicit start while it waits


async def test_a_start_in_backoff_starts_at_once_and_counts_anew(autojump_clock: MockClock) -> None:
    crashing = [FakeBackend(exits_after=1, exit_code=1)] * 3
    policy = on_failure(delay=100, max_delay=1000, limit=0, healthy_after=50)
    async with supervised(*crashing, FakeBackend(), restart_policy=policy) as (sup, system):
        await sup.start(SPEC)
        await trio.sleep(0.5)
        for _ in range(2):
            await until_phase(sup, Phase.BACKOFF)
            await trio.sleep(10)
            backend = await sup.start(SPEC)
            assert (backend.phase, backend.restarts) == (Phase.READY, 0)
        assert launches(system) == pytest.approx([0, 11, 22])
        stream = sup.events()
        event = await next_of(stream, events.BackendBackoff)
        assert (event.delay, event.failures) == (100, 1)


async def test_a_start_in_backoff_joins_those_who_wait(autojump_clock: MockClock) -> None:
    async with supervised(DIES, FakeBackend(), restart_policy=PATIENT) as (sup, system):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sup.start, SPEC)
            await until_phase(sup, Phase.BACKOFF)
            assert (await sup.start(SPEC)).generation == 2
        assert launches(system) == pytest.approx([0, 0.5])


async def test_a_first_start_that_nobody_waits_for_any_more_is_dropped_in_backoff(autojump_clock: MockClock) -> None:
    async with supervised(DIES, restart_policy=PATIENT) as (sup, system):
        with trio.move_on_after(5):
            await sup.start(SPEC)
        await wait_all_tasks_blocked()
        assert (sup.backends, system.held) == ((), set())
        await trio.sleep(1000)
        assert len(system.children) == 1


async def test_starts_that_are_cancelled_together_in_backoff_leave_nothing(autojump_clock: MockClock) -> None:
    async with supervised(DIES, FakeBackend(), restart_policy=PATIENT) as (sup, system):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sup.start, SPEC)
            await until_phase(sup, Phase.BACKOFF)

            async def start_and_leave() -> None:
                nursery.start_soon(sup.start, SPEC)
                await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()

            await start_and_leave()
        await trio.sleep(1000)
        assert (sup.backends, system.running()) == ((), [])


async def test_a_first_start_that_nobody_waits_for_any_more_is_not_restarted_after_its_end(
    autojump_clock: MockClock,
) -> None:
    behaviour = FakeBackend(healthy_after=99, stops_after=5)
    async with supervised(behaviour, FakeBackend(), restart_policy=on_failure()) as (sup, system):
        with trio.move_on_after(32):  # it was not ready in time, and is being stopped
            await sup.start(SPEC)
        assert [backend.phase for backend in sup.backends] == [Phase.STOPPING]
        await trio.sleep(1000)
        assert (sup.backends, len(system.children)) == ((), 1)


async def test_one_that_had_been_ready_is_restarted_whoever_leaves(autojump_clock: MockClock) -> None:
    slow = FakeBackend(healthy_after=20)
    async with supervised(FakeBackend(exits_after=1, exit_code=1), slow, restart_policy=on_failure()) as (sup, system):
        await sup.start(SPEC)
        await until_phase(sup, Phase.BACKOFF)
        with trio.move_on_after(0.5):
            await sup.start(SPEC)
        assert [backend.phase for backend in sup.backends] == [Phase.STARTING]
        await until_phase(sup, Phase.READY)
        assert launches(system) == pytest.approx([0, 1])


async def test_a_start_while_it_is_restarted_waits_for_the_new_process(autojump_clock: MockClock) -> None:
    slow = FakeBackend(healthy_after=20)
    async with supervised(FakeBackend(exits_after=1, exit_code=1), slow, restart_policy=on_failure()) as (sup, _):
        await sup.start(SPEC)
        await until_phase(sup, Phase.BACKOFF)
        await until_phase(sup, Phase.STARTING)
        assert (await sup.start(SPEC)).generation == 2


async def test_a_start_that_its_only_caller_leaves_is_not_restarted(autojump_clock: MockClock) -> None:
    async with supervised(FakeBackend(healthy_after=20), restart_policy="always") as (sup, system):
        with trio.move_on_after(5):
            await sup.start(SPEC)
        await trio.sleep(1000)
        assert (sup.backends, len(system.children)) == ((), 1)
        assert sup.exit_reports(KEY)[0].cause is Cause.ABANDONED


async def test_another_specification_conflicts_in_backoff_unless_it_replaces(autojump_clock: MockClock) -> None:
    other = attrs.evolve(SPEC, grace=1)
    async with supervised(DIES, FakeBackend(), restart_policy=PATIENT) as (sup, system):
        async with trio.open_nursery() as nursery:

            async def start() -> None:
                with pytest.raises(trio_sup.StoppedDuringStartup, match="replaced by another specification"):
                    await sup.start(SPEC)

            nursery.start_soon(start)
            await until_phase(sup, Phase.BACKOFF)
            with pytest.raises(trio_sup.SpecConflict, match="grace"):
                await sup.start(other)
            (backend,) = sup.backends
            assert (backend.phase, backend.spec.grace) == (Phase.BACKOFF, 15)
            backend = await sup.start(other, replace=True)
            assert (backend.spec.grace, backend.restarts, backend.generation) == (1, 0, 2)
        assert launches(system) == pytest.approx([0, 0.5])


async def test_a_start_while_a_crashed_one_is_ended_starts_without_a_backoff(autojump_clock: MockClock) -> None:
    policy = Policy(lambda ends: RestartAfter(100))
    spec = attrs.evolve(SPEC, restart_policy=policy)
    async with supervised(FakeBackend(healthy_after=99, stops_after=3), FakeBackend()) as (sup, system):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sup.start, spec)
            await until_phase(sup, Phase.STOPPING)  # not ready in time
            await trio.sleep(1)
            backend = await sup.start(spec)  # and the first one, which still waits, returns as well
        assert (backend.generation, backend.restarts, policy.told) == (2, 0, [])
        assert launches(system) == pytest.approx([0, 33])


# ---- a stop while it waits


async def test_a_stop_in_backoff_ends_it_and_reports_its_last_end(autojump_clock: MockClock) -> None:
    async with supervised(DIES, restart_policy=PATIENT) as (sup, system):
        async with trio.open_nursery() as nursery:

            async def start() -> None:
                with pytest.raises(trio_sup.StoppedDuringStartup, match="asked to stop"):
                    await sup.start(SPEC)

            nursery.start_soon(start)
            await until_phase(sup, Phase.BACKOFF)
            await trio.sleep(7)
            assert system.held == {21000}
            began = trio.current_time()
            (report,) = await sup.stop("store")
            assert trio.current_time() == began
        assert (report.gone, report.generation) == (True, 1)
        assert report.report is not None
        assert report.report.status == ExitStatus(code=3)
        assert (sup.backends, system.held) == ((), set())
        await trio.sleep(1000)
        assert len(system.children) == 1


@pytest.mark.parametrize("force", [False, True])
async def test_a_stop_of_a_given_up_one_forgets_it(autojump_clock: MockClock, force: bool) -> None:
    async with supervised(DIES, restart_policy=on_failure(max_start_failures=1)) as (sup, _):
        with pytest.raises(trio_sup.GivenUp):
            await sup.start(SPEC)
        (report,) = await sup.stop("store", force=force)
        assert (report.key, report.gone) == (KEY, True)
        assert sup.backends == ()
        assert await sup.stop("store") == ()
        assert len(sup.exit_reports(KEY)) == 1


@pytest.mark.parametrize("phase", [Phase.BACKOFF, Phase.GIVEN_UP])
@pytest.mark.parametrize("order", ["stop start", "stop stop", "start start stop", "stop start stop start"])
async def test_of_stops_and_starts_in_the_same_instant_the_last_one_wins(
    autojump_clock: MockClock, phase: Phase, order: str
) -> None:
    policy = PATIENT if phase is Phase.BACKOFF else on_failure(delay=100, max_delay=1000, max_start_failures=1)
    spec = attrs.evolve(SPEC, restart_policy=policy)
    before = [FakeBackend(exits_after=1, exit_code=1), *[DIES] * (phase is Phase.GIVEN_UP)]
    for turn in range(20):  # tasks of the same instant run in an order of Trio's choice
        calls: list[str] = []

        async def start(sup: trio_sup.Supervisor, calls: list[str] = calls) -> None:
            calls.append("start")
            with suppress(trio_sup.StoppedDuringStartup):
                assert (await sup.start(spec)).phase is Phase.READY

        async def stop(sup: trio_sup.Supervisor, calls: list[str] = calls) -> None:
            calls.append("stop")
            assert all(report.gone for report in await sup.stop("store"))

        async with supervised(*before, FakeBackend()) as (sup, system):
            await sup.start(spec)
            await until_phase(sup, Phase.BACKOFF)
            if phase is Phase.GIVEN_UP:
                with pytest.raises(trio_sup.GivenUp):
                    await sup.start(spec)
            with trio.fail_after(50):
                async with trio.open_nursery() as nursery:
                    for name in order.split():
                        nursery.start_soon(start if name == "start" else stop, sup)
                        for _ in range(turn % 3):
                            await trio.lowlevel.checkpoint()
            ready = calls[-1] == "start"
            assert [backend.phase for backend in sup.backends] == [Phase.READY] * ready
            assert len(system.running()) == ready


@pytest.mark.parametrize("force", [False, True])
async def test_what_is_stopped_in_backoff_takes_another_specification(autojump_clock: MockClock, force: bool) -> None:
    other = attrs.evolve(SPEC, grace=1)
    for _ in range(20):  # which of two tasks woken together runs first is Trio's choice
        async with supervised(FakeBackend(exits_after=1, exit_code=1), restart_policy=PATIENT) as (sup, _):
            await sup.start(SPEC)
            await until_phase(sup, Phase.BACKOFF)
            stopped = trio.Event()

            async def start(stopped: trio.Event = stopped, sup: trio_sup.Supervisor = sup) -> None:
                await stopped.wait()
                assert (await sup.start(other)).spec.grace == 1

            async with trio.open_nursery() as nursery:
                nursery.start_soon(start)
                await wait_all_tasks_blocked()
                for slot in sup._table:  # as a stop does, with nothing between it and the start
                    sup._stopping.begin([slot], Cause.ASKED, force=force)
                stopped.set()


async def test_a_stop_before_the_next_attempt_has_moved_is_heeded(autojump_clock: MockClock) -> None:
    class Slow:
        """Says nothing while it makes up its mind."""

        async def admit(self, slot: Any, waits_for: Callable[[str], None]) -> None:
            await trio.sleep(10)

    async with supervised(FakeBackend(exits_after=1, exit_code=1), restart_policy=on_failure()) as (sup, system):
        await sup.start(SPEC)
        sup._lifecycle.admission = Slow()  # type: ignore[assignment]  # as little of it as is called
        await until_phase(sup, Phase.BACKOFF)
        await trio.sleep(5)
        (report,) = await sup.stop("store")
        assert (report.gone, sup.backends, len(system.children)) == (True, (), 1)


@pytest.mark.parametrize("behaviour", [
    FakeBackend(exits_after=5, exit_code=1), FakeBackend(healthy_after=99, stops_after=3),
], ids=["crashed", "not ready in time"])  # fmt: skip
async def test_a_stop_while_it_is_ended_prevents_the_restart(autojump_clock: MockClock, behaviour: FakeBackend) -> None:
    async with supervised(behaviour, restart_policy=on_failure()) as (sup, system):
        async with trio.open_nursery() as nursery:

            async def start() -> None:
                with suppress(trio_sup.StartFailed):
                    await sup.start(SPEC)

            nursery.start_soon(start)
            await until_phase(sup, Phase.STOPPING)
            (report,) = await sup.stop("store")
            assert report.gone
            assert sup.backends == ()
        await trio.sleep(1000)
        assert len(system.children) == 1


@pytest.mark.parametrize("phase", [Phase.BACKOFF, Phase.GIVEN_UP])
async def test_leaving_the_block_does_not_wait_for_one_that_rests(autojump_clock: MockClock, phase: Phase) -> None:
    failed: list[trio_sup.TrioSupError] = []

    async def start(sup: trio_sup.Supervisor) -> None:
        try:
            await sup.start(SPEC)
        except trio_sup.TrioSupError as error:
            failed.append(error)

    policy = on_failure(delay=1000, max_delay=10000, max_start_failures=1 if phase is Phase.GIVEN_UP else 5)
    async with trio.open_nursery() as nursery:
        async with supervised(DIES, restart_policy=policy) as (sup, _):
            stream = sup.events()
            nursery.start_soon(start, sup)
            await until_phase(sup, phase)
            began = trio.current_time()
        assert trio.current_time() == began
    assert phases(await all_of(stream))[-2:] == [phase, Phase.GONE]
    (error,) = failed
    if phase is Phase.BACKOFF:
        assert isinstance(error, trio_sup.StoppedDuringStartup)
        assert error.cause == "shutdown"
    else:
        assert isinstance(error, trio_sup.GivenUp)


# ---- survivors


async def test_survivors_that_end_later_leave_it_to_the_policy(autojump_clock: MockClock) -> None:
    stubborn = FakeBackend(healthy_after=99, stops_after=math.inf, survives_kill=True)
    async with supervised(stubborn, FakeBackend(), restart_policy=on_failure()) as (sup, system):
        with pytest.raises(trio_sup.StopFailed):  # not ready in time, and not to be ended either
            await sup.start(SPEC)
        (backend,) = sup.backends
        assert (backend.phase, backend.port) == (Phase.STOP_FAILED, 21000)
        await trio.sleep(100)
        assert len(system.children) == 1
        stream = sup.events()
        system.children[0].release()
        released = trio.current_time()
        backoff = await next_of(stream, events.BackendBackoff)
        assert (backoff.previous, backoff.delay) == (Phase.STOP_FAILED, 1)
        await next_of(stream, events.BackendReady)
        assert system.children[1].launched_at - released == pytest.approx(1)
        assert system.children[1].port == 21000


async def test_a_stop_of_survivors_prevents_the_restart(autojump_clock: MockClock) -> None:
    stubborn = FakeBackend(healthy_after=99, stops_after=math.inf, survives_kill=True)
    async with supervised(stubborn, FakeBackend(), restart_policy=on_failure()) as (sup, system):
        with pytest.raises(trio_sup.StopFailed):
            await sup.start(SPEC)
        with pytest.raises(trio_sup.StopFailed):
            await sup.stop("store")
        system.children[0].release()
        await trio.sleep(100)
        assert (sup.backends, len(system.children)) == ((), 1)
