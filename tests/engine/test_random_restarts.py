"""Random schedules on backends that crash, fall ill, warm up and are restarted: no move that is not in the table, every
caller is answered, and nothing is left."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import attrs
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

import trio_sup
from trio_sup import BackendSpec, Choice, Liveness, Phase, ProcessKey, Readiness, events, hookimpl
from trio_sup._phases import MOVES
from trio_sup.strategies import AttemptEnd, RestartAfter, WarmUpTarget
from trio_sup.testing import FakeBackend, FakeSystem


@attrs.frozen
class AtOnce:
    """Restarts whatever happens, without a wait."""

    def decide(self, ends: Sequence[AttemptEnd], rng: random.Random) -> RestartAfter:
        return RestartAfter(0)


@attrs.frozen
class Warm:
    """Takes its time; every third process is beyond help."""

    seconds: float

    def budget(self, spec: BackendSpec) -> float:
        return 5

    async def warm_up(self, target: WarmUpTarget) -> None:
        await trio.sleep(self.seconds)
        if target.pid % 3 == 0:
            raise RuntimeError("beyond help")


@attrs.frozen
class Observing:
    """A plugin with one observer."""

    observer: Callable[[events.Event], None]

    @hookimpl
    def trio_sup_observers(self) -> Sequence[Callable[[events.Event], None]]:
        return [self.observer]


POLICIES = [
    "never",
    Choice("on-failure", delay=1, max_delay=4, jitter=0, max_start_failures=3, limit=4, period=100),
    Choice("always", delay=10, max_delay=10, factor=1, max_start_failures=1, limit=0),
    AtOnce(),
]
SPECS = [
    BackendSpec(
        name="store",
        command=[sys.executable],
        grace=grace,
        restart_policy=policy,
        readiness=Readiness(timeout=8, period=2, failure_threshold=2, progress=["output"]),
        liveness=Liveness(period=3, failure_threshold=2, busy_timeout=10),
        warm_up=warm_up,
    )
    for policy in POLICIES
    for grace, warm_up in ((1, []), (2, [Warm(0), Warm(3)]))
]
LONGEST = 100_000  # virtual seconds: what takes longer hangs

times = st.sampled_from([0.0, 0.001, 0.1, 1.0, 7.0, 40.0])
spans = st.lists(st.tuples(times, st.sampled_from([5.0, 20.0, math.inf])), max_size=2)
behaviours = st.builds(
    FakeBackend,
    listens_after=times,
    healthy_after=times,
    unhealthy_during=spans,
    hangs_during=spans,
    exits_after=st.sampled_from([0.0, 0.05, 3.0, 25.0, 1e9]),
    exit_code=st.sampled_from([0, 1]),
    stops_after=times,
    free_takes=times,
    works_from=st.sampled_from([0.0, 10.0, math.inf]),
    works_until=st.just(60.0),
    work=st.sampled_from([["cpu"], ["output"]]),
    stderr=st.sampled_from([b"", b"Address already in use"]),
)
patience = st.sampled_from([0.0, 0.5, 30.0, math.inf])
actions = st.one_of(
    st.tuples(st.just("start"), st.integers(0, 1), st.integers(0, len(SPECS) - 1), st.booleans(), patience),
    st.tuples(st.just("stop"), st.integers(0, 1), st.booleans(), patience),
    st.tuples(st.just("stop_all"), st.booleans()),
    st.tuples(st.just("exit"), st.integers(0, 5)),
    st.tuples(st.just("wait"), times),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(behaviours, min_size=1, max_size=6), st.lists(actions, max_size=20))
def test_every_caller_is_answered_and_nothing_is_left(processes: list[FakeBackend], schedule: list[Any]) -> None:
    async def play() -> None:
        system = FakeSystem(processes)
        told: list[events.Event] = []

        def check_live_processes() -> None:
            ports = [child.port for child in system.children if not child.closed]
            assert len(ports) == len(set(ports))  # a key has one port, so this is one process per key

        plugins = [Observing(told.append)]  # a stream would lose the oldest ones
        async with trio_sup.open_supervisor(system=system, install_lock="memory", plugins=plugins) as sup:

            async def start(replica: int, spec: int, replace: bool, patience: float) -> None:
                with trio.move_on_after(patience), suppress(trio_sup.StartFailed, trio_sup.SpecConflict):
                    backend = await sup.start(SPECS[spec], replica=replica, replace=replace)
                    assert backend.phase is Phase.READY
                    assert backend.address is not None

            async def stop(replica: int, force: bool, patience: float) -> None:
                with trio.move_on_after(patience):
                    assert all(report.gone for report in await sup.stop(f"store#{replica}", force=force))

            with trio.fail_after(LONGEST):
                async with trio.open_nursery() as callers:
                    for name, *arguments in schedule:
                        running = system.running()
                        if name == "start":
                            callers.start_soon(start, *arguments)
                        elif name == "stop":
                            callers.start_soon(stop, *arguments)
                        elif name == "stop_all":
                            callers.start_soon(partial(sup.stop_all, force=arguments[0]))
                        elif name == "exit" and running:
                            running[arguments[0] % len(running)].exit()
                        elif name == "wait":
                            await trio.sleep(arguments[0])
                        await trio.lowlevel.checkpoint()
                        check_live_processes()
                    # One that is restarted for ever, and never ready, keeps its caller waiting until it is stopped.
                    await trio.sleep(100)
                    await sup.stop_all()
                check_live_processes()
        assert sup.backends == ()
        assert system.running() == []
        assert all(child.closed for child in system.children)
        assert system.held == set()
        last: dict[ProcessKey, tuple[Phase, int]] = {}
        for event in told:
            if isinstance(event, events.BackendMoved):
                phase, generation = last.get(event.key, (Phase.GONE, 0))
                assert event.previous is phase
                assert event.phase in MOVES[phase]
                assert event.generation >= generation
                last[event.key] = event.phase, event.generation
        assert {phase for phase, _ in last.values()} <= {Phase.GONE}

    trio.run(play, clock=MockClock(autojump_threshold=0))
