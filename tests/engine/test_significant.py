"""A significant backend: when it ends for good although nobody asked, the supervisor ends with it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trio_sup
from tests.engine.staging import GivesUp, Stage, again, nothing_is_left, phases, spec, staged, until
from trio_sup import Phase, SignificantEnded
from trio_sup.testing import FakeBackend


@asynccontextmanager
async def ended(stage: Stage, because: str = "", **options: Any) -> AsyncIterator[trio_sup.Supervisor]:
    """A supervisor that has to be ended by a significant backend, with *because* in the reason."""
    reason = "it was not ended"
    try:
        async with staged(stage, **options) as sup:
            yield sup
    except SignificantEnded as error:
        reason = str(error)
    assert "has ended for good" in reason
    assert because in reason
    nothing_is_left(stage)


def significant(**fields: Any) -> trio_sup.BackendSpec:
    return spec("main", significant=True, **fields)


CRASHES = FakeBackend(exits_after=5, exit_code=3)


@pytest.mark.parametrize(
    ("policy", "behaviour", "why", "ends_at"),
    [
        ("never", CRASHES, "exit code 3", 5),
        ("never", FakeBackend(exits_after=5), "exit code 0", 5),
        ("on-failure", FakeBackend(exits_after=5), "exit code 0", 5),
        (GivesUp(2, 10), CRASHES, "enough", 35),
    ],
)
async def test_its_end_for_good_cancels_the_block_ends_all_and_is_raised(
    policy: Any, behaviour: FakeBackend, why: str, ends_at: float, autojump_clock: MockClock
) -> None:
    stage = Stage(main=behaviour, other=FakeBackend(stops_after=3))
    reached_the_end = False

    async def run() -> None:
        nonlocal reached_the_end
        async with staged(stage) as sup:
            await sup.start(spec("other"))
            await sup.start(significant(restart_policy=policy))
            await trio.sleep(1000)
            reached_the_end = True

    with pytest.raises(SignificantEnded) as caught:
        await run()
    assert not reached_the_end
    assert str(caught.value.key) == "main#0"
    assert caught.value.why == why
    assert caught.value.report is not None
    assert caught.value.report.status == trio_sup.ExitStatus(code=behaviour.exit_code)
    assert str(caught.value).startswith(f"main#0 is significant and has ended for good ({why})")
    assert trio.current_time() == pytest.approx(ends_at + 3, abs=0.1)
    nothing_is_left(stage)


async def test_a_restart_is_no_end_for_good(autojump_clock: MockClock) -> None:
    stage = Stage(main=[CRASHES, FakeBackend()])
    async with staged(stage) as sup:
        await sup.start(significant(restart_policy=GivesUp(1)))
        await again(sup, "main#0", Phase.READY)
        await trio.sleep(1000)
    nothing_is_left(stage)


async def test_an_end_that_was_asked_for_is_none_either(autojump_clock: MockClock) -> None:
    async with staged(Stage()) as sup:
        await sup.start(significant())
        await sup.stop("main")
        await sup.start(significant(idle_timeout=7))
        await until(sup, "main#0", Phase.GONE)
        await trio.sleep(1000)


async def test_an_end_during_the_shutdown_is_none_either(autojump_clock: MockClock) -> None:
    async with staged(Stage(main=FakeBackend(exits_after=5, stops_after=1e9), other=FakeBackend(stops_after=9))) as sup:
        await sup.start(spec("other"))
        await sup.start(significant())


async def test_a_start_that_is_cancelled_is_none_either(autojump_clock: MockClock) -> None:
    async with staged(Stage(main=FakeBackend(listens_after=20))) as sup:
        with trio.move_on_after(5):
            await sup.start(significant())
        await trio.sleep(1000)


async def test_a_command_that_cannot_run_is_for_its_caller_alone(autojump_clock: MockClock) -> None:
    async with staged(Stage()) as sup:
        broken = trio_sup.BackendSpec(name="main", command=["/nonexistent"], significant=True)
        with pytest.raises(trio_sup.InvalidCommand):
            await sup.start(broken)
        await trio.sleep(1000)


async def test_a_first_start_that_fails_ends_the_supervisor_too(autojump_clock: MockClock) -> None:
    async with ended(Stage(main=FakeBackend(exits_after=1, exit_code=3, listens_after=99)), "exit code 3") as sup:
        with pytest.raises(trio_sup.DiedDuringStartup):
            await sup.start(significant())
        await trio.sleep(1000)


async def test_it_ends_the_supervisor_when_it_is_given_up_with_its_group(autojump_clock: MockClock) -> None:
    async with ended(
        Stage(worker=CRASHES), "worker#0 of its group was given up: enough", groups={"both": "one-for-all"}
    ) as sup:
        await sup.start(significant(group="both"))
        await sup.start(spec("worker", group="both", restart_policy=GivesUp()))
        await trio.sleep(1000)


async def test_it_ends_the_supervisor_when_what_it_is_bound_to_was_given_up(autojump_clock: MockClock) -> None:
    async with ended(Stage(db=CRASHES), "it needs db#0, which was given up: enough") as sup:
        await sup.start(spec("db", restart_policy=GivesUp()))
        await sup.start(significant(needs=["db"], bind=True))
        await trio.sleep(1000)


async def test_what_resists_is_ended_within_the_shutdown_budget(autojump_clock: MockClock) -> None:
    stage = Stage(main=CRASHES, other=FakeBackend(stops_after=1e9))
    async with ended(stage, shutdown_timeout=10) as sup:
        await sup.start(spec("other", grace=1000))
        await sup.start(significant())
        await trio.sleep(1000)
    assert trio.current_time() <= 5 + 10
    nothing_is_left(stage)


async def test_the_blocks_own_error_wins(autojump_clock: MockClock) -> None:
    stage = Stage(main=CRASHES)

    async def run() -> None:
        async with staged(stage) as sup:
            await sup.start(significant())
            try:
                await trio.sleep(1000)
            finally:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run()
    nothing_is_left(stage)


async def test_a_cancellation_from_outside_wins(autojump_clock: MockClock) -> None:
    stage = Stage(main=CRASHES)
    with trio.CancelScope() as outside:
        async with staged(stage) as sup:
            await sup.start(significant())
            try:
                await trio.sleep(1000)
            finally:
                outside.cancel()
    assert outside.cancelled_caught
    nothing_is_left(stage)


async def test_it_reaches_a_block_that_waits_in_a_nursery(autojump_clock: MockClock) -> None:
    stage = Stage(main=CRASHES)
    async with ended(stage) as sup, trio.open_nursery() as nursery:
        await sup.start(significant())
        nursery.start_soon(trio.sleep_forever)
        await until(sup, "main#0", Phase.UNREADY)


async def test_it_is_raised_although_the_block_is_just_about_to_end(autojump_clock: MockClock) -> None:
    stage = Stage(main=CRASHES)
    async with ended(stage) as sup:
        await sup.start(significant())
        with trio.CancelScope(shield=True):
            await until(sup, "main#0", Phase.GONE)
        assert phases(sup) == {}


async def test_the_first_of_two_is_the_one_that_is_named(autojump_clock: MockClock) -> None:
    stage = Stage(main=CRASHES, second=FakeBackend(exits_after=7))
    async with ended(stage, "main#0 is significant") as sup:
        await sup.start(spec("second", significant=True))
        await sup.start(significant())
        await trio.sleep(1000)
