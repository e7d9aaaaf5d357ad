"""Who is let in and who makes room: `max_running` and the memory budget, on fake processes and a virtual clock."""

from __future__ import annotations

import math
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_sup
from trio_sup import BackendSpec, Cause, InvalidValue, NoRoom, Phase, ProcessKey
from trio_sup.events import BackendWaiting
from trio_sup.testing import FakeBackend, FakeSystem

MIB = 2**20


def spec(name: str, **fields: Any) -> BackendSpec:
    return BackendSpec(name=name, command=[sys.executable], **fields)


A, B, C = (spec(name) for name in "abc")


@asynccontextmanager
async def supervised(*behaviours: FakeBackend, **options: Any) -> AsyncIterator[tuple[trio_sup.Supervisor, FakeSystem]]:
    system = FakeSystem(behaviours)
    async with trio_sup.open_supervisor(system=system, install_lock="memory", **options) as sup:
        yield sup, system
    assert system.running() == []
    assert not system.held


def running(sup: trio_sup.Supervisor) -> list[str]:
    return [str(backend.key) for backend in sup.backends]


async def test_the_one_used_longest_ago_makes_room(autojump_clock: MockClock) -> None:
    async with supervised(max_running=2) as (sup, _):
        for each in (A, B):
            await sup.start(each)
            await trio.sleep(1)
        async with sup.use("a"):
            await trio.sleep(1)
        await sup.start(C)
        assert running(sup) == ["a#0", "c#0"]
        report = sup.exit_reports("b#0")[-1]
        assert report.cause is Cause.EVICTED
        assert report.asked
        assert report.success


async def test_the_newcomer_is_launched_only_when_the_room_is_really_free(autojump_clock: MockClock) -> None:
    async with supervised(FakeBackend(stops_after=7), max_running=1) as (sup, system):
        await sup.start(A)
        began = trio.current_time()
        await sup.start(B)
        assert system.children[1].launched_at == pytest.approx(began + 7, abs=0.1)


async def test_waiting_for_room_does_not_count_for_the_readiness_deadline(autojump_clock: MockClock) -> None:
    slow = spec("b", readiness=trio_sup.Readiness(timeout=3))
    async with supervised(FakeBackend(stops_after=10), FakeBackend(listens_after=2), max_running=1) as (sup, _):
        await sup.start(A)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sup.start, slow)
            await trio.sleep(5)
            (waiting,) = (each for each in sup.backends if each.phase is Phase.WAITING)
            assert waiting.waits_for == "the room of a#0"
        assert running(sup) == ["b#0"]


async def test_leased_pinned_and_needed_ones_stay_and_are_named(autojump_clock: MockClock) -> None:
    async with supervised(max_running=4) as (sup, system):
        await sup.start(A)
        await sup.start(spec("pinned", pinned=True))
        await sup.start(spec("needed"))
        async with sup.use(spec("needing", needs=["needed"])), sup.use("a"):
            with pytest.raises(NoRoom) as caught:
                await sup.start(B)
            assert dict(caught.value.holders) == {
                ProcessKey("a"): "in use",
                ProcessKey("pinned"): "pinned",
                ProcessKey("needed"): "needed by others that run",
                ProcessKey("needing"): "in use",
            }
            assert "max_running allows 4 at once" in str(caught.value)
            assert len(system.children) == 4
        await sup.start(B)  # what was leased is idle now
        assert len(system.running()) == 4


async def test_starting_ones_stay(autojump_clock: MockClock) -> None:
    async with supervised(FakeBackend(listens_after=20), max_running=1) as (sup, system):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sup.start, A)
            await wait_all_tasks_blocked()
            with pytest.raises(NoRoom, match="starting"):
                await sup.start(B)
        assert running(sup) == ["a#0"]
        assert len(system.children) == 1


async def test_no_room_is_told_at_once_also_with_a_restart_policy(autojump_clock: MockClock) -> None:
    async with supervised(max_running=1, restart_policy="always") as (sup, _), sup.use(A):
        began = trio.current_time()
        with pytest.raises(NoRoom):
            await sup.start(B)
        assert trio.current_time() == began


async def test_two_newcomers_do_not_get_the_same_room(autojump_clock: MockClock) -> None:
    async with supervised(FakeBackend(listens_after=1), max_running=2) as (sup, system):
        await sup.start(A)
        outcomes = []

        async def start(each: BackendSpec) -> None:
            try:
                outcomes.append((await sup.start(each)).key.model)
            except NoRoom as error:
                outcomes.append(f"no room for {error.key.model}")

        async with sup.use("a"), trio.open_nursery() as nursery:
            nursery.start_soon(start, B)
            nursery.start_soon(start, C)
        assert sorted(outcomes) in (["b", "no room for c"], ["c", "no room for b"])
        assert len(system.children) == 2


async def test_a_restart_keeps_its_place(autojump_clock: MockClock) -> None:
    restarted = spec("a", restart_policy={"strategy": "on-failure", "delay": 10, "jitter": 0})
    async with supervised(max_running=1) as (sup, system):
        await sup.start(restarted)
        system.children[0].exit(trio_sup.ExitStatus(code=1))
        await trio.sleep(1)
        with pytest.raises(NoRoom):
            await sup.start(B)
        await trio.sleep(10)
        assert sup.is_running("a")


async def test_what_is_given_up_or_gone_leaves_its_place(autojump_clock: MockClock) -> None:
    fragile = spec("a", restart_policy={"strategy": "on-failure", "max_start_failures": 1})
    async with supervised(FakeBackend(exits_after=0, exit_code=1), FakeBackend(), max_running=1) as (sup, _):
        with pytest.raises(trio_sup.GivenUp):
            await sup.start(fragile)
        await sup.start(B)
        await sup.stop("b")
        await sup.start(C)


async def test_the_memory_budget_counts_what_is_measured_and_what_is_declared(autojump_clock: MockClock) -> None:
    small, large = (spec(name, memory=size * MIB) for name, size in (("small", 100), ("large", 600)))
    behaviours = [FakeBackend(memory_bytes=size * MIB) for size in (300, 500, 600)]
    async with supervised(*behaviours, memory_budget="1000MiB") as (sup, _):
        await sup.start(A)
        await trio.sleep(1)
        await sup.start(small)  # declared 100, but then it holds 500
        assert running(sup) == ["a#0", "small#0"]
        await trio.sleep(1)
        await sup.start(large)  # 300 and 500 are in use: both have to go for 600 of 1000, or the larger alone
        assert running(sup) == ["a#0", "large#0"]


async def test_what_needs_more_than_the_whole_budget_is_refused_and_changes_nothing(autojump_clock: MockClock) -> None:
    async with supervised(FakeBackend(memory_bytes=MIB), memory_budget="10MiB") as (sup, _):
        await sup.start(A)
        with pytest.raises(NoRoom, match="more than the whole memory_budget of 10 MiB"):
            await sup.start(spec("huge", memory="1GiB"))
        assert running(sup) == ["a#0"]


async def test_survivors_of_an_eviction_hold_their_room(autojump_clock: MockClock) -> None:
    deaf = attrs.evolve(A, grace=1)
    async with supervised(FakeBackend(stops_after=math.inf, survives_kill=True), max_running=1) as (sup, system):
        await sup.start(deaf)
        with pytest.raises(NoRoom, match="could not be ended"):
            await sup.start(B)
        system.children[0].release()


async def test_a_newcomer_that_gives_up_while_it_waits_leaves_nothing(autojump_clock: MockClock) -> None:
    async with supervised(FakeBackend(stops_after=10), max_running=1) as (sup, system):
        await sup.start(A)
        with trio.move_on_after(3):
            await sup.start(B)
        await trio.sleep(20)
        assert running(sup) == []
        assert len(system.children) == 1


async def test_newcomers_that_wait_do_not_wake_each_other(autojump_clock: MockClock) -> None:
    slow = FakeBackend(stops_after=50, memory_bytes=90 * MIB)
    grace = {"grace": 100, "memory": 60 * MIB}
    async with supervised(slow, FakeBackend(memory_bytes=40 * MIB), memory_budget="130MiB") as (sup, system):
        await sup.start(spec("old", **grace))
        stream = sup.events()

        async def start(name: str) -> None:
            with suppress(NoRoom):
                await sup.start(spec(name, **grace))

        async with trio.open_nursery() as nursery:
            for name in ("b", "c", "d"):
                nursery.start_soon(start, name)
    waits = [event async for event in stream if isinstance(event, BackendWaiting)]
    assert len(waits) < 30
    assert system.running() == []


@pytest.mark.parametrize(
    ("option", "value"), [("max_running", 0), ("max_running", True), ("max_running", 1.5), ("memory_budget", "lots")]
)
async def test_a_bound_that_makes_no_sense_is_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(InvalidValue, match=f"^{option}: expected "):
        async with supervised(**{option: value}):
            pass
