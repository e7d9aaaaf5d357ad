"""Random schedules of start, stop and exit, with callers that lose patience, played on imagined processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import attrs
import trio
from hypothesis import strategies as st
from trio.testing import MockClock

import trio_sup
from tests.engine.staging import nothing_is_left
from trio_sup import BackendSpec, Phase, ProcessKey, events, hookimpl
from trio_sup._phases import MOVES
from trio_sup.testing import FakeBackend, FakeSystem

LONGEST = 100_000
"""Virtual seconds; what takes longer hangs."""

times = st.sampled_from([0.0, 0.001, 0.1, 1.0, 7.0, 40.0])


def actions(*, specs: int, replicas: int, patience: Sequence[float]) -> st.SearchStrategy[Any]:
    """One step of a schedule for `play`; its callers wait for so many seconds as one of *patience* says."""
    replica, seconds = st.integers(0, replicas - 1), st.sampled_from(patience)
    return st.one_of(
        st.tuples(st.just("start"), replica, st.integers(0, specs - 1), st.booleans(), seconds),
        st.tuples(st.just("stop"), replica, st.booleans(), seconds),
        st.tuples(st.just("stop_all"), st.booleans()),
        st.tuples(st.just("exit"), st.integers(0, 5)),
        st.tuples(st.just("wait"), times),
    )


@attrs.frozen
class _Observing:
    """A plugin with one observer."""

    observer: Callable[[events.Event], None]

    @hookimpl
    def trio_sup_observers(self) -> Sequence[Callable[[events.Event], None]]:
        return [self.observer]


@attrs.frozen
class _Player:
    """Does what a schedule says, each step in a task of its own."""

    sup: trio_sup.Supervisor
    system: FakeSystem
    specs: Sequence[BackendSpec]
    callers: trio.Nursery

    async def step(self, name: str, *arguments: Any) -> None:
        running = self.system.running()
        if name == "start":
            self.callers.start_soon(self._start, *arguments)
        elif name == "stop":
            self.callers.start_soon(self._stop, *arguments)
        elif name == "stop_all":
            self.callers.start_soon(partial(self.sup.stop_all, force=arguments[0]))
        elif name == "exit" and running:
            running[arguments[0] % len(running)].exit()
        elif name == "wait":
            await trio.sleep(arguments[0])
        await trio.lowlevel.checkpoint()

    async def _start(self, replica: int, spec: int, replace: bool, patience: float) -> None:
        with trio.move_on_after(patience), suppress(trio_sup.StartFailed, trio_sup.SpecConflict):
            backend = await self.sup.start(self.specs[spec], replica=replica, replace=replace)
            assert backend.phase is Phase.READY
            assert backend.address is not None

    async def _stop(self, replica: int, force: bool, patience: float) -> None:
        with trio.move_on_after(patience):
            assert all(report.gone for report in await self.sup.stop(f"store#{replica}", force=force))


def play(
    processes: Sequence[FakeBackend],
    specs: Sequence[BackendSpec],
    schedule: Iterable[Any],
    *,
    stopped_after: float | None = None,
) -> None:
    """Play *schedule* on backends called ``store``, whose processes behave as *processes* say, one after the other.

    Every caller is answered, no key ever has two processes, only moves of the table happen, and nothing is left.

    Args:
        stopped_after: Seconds from the last step until all are stopped; by default the end of the supervisor does it.
    """

    async def run() -> None:
        system = FakeSystem(processes)
        told: list[events.Event] = []
        plugins = [_Observing(told.append)]  # a stream would lose the oldest ones
        async with trio_sup.open_supervisor(system=system, install_lock="memory", plugins=plugins) as sup:
            with trio.fail_after(LONGEST):
                async with trio.open_nursery() as callers:
                    player = _Player(sup, system, specs, callers)
                    for step in schedule:
                        await player.step(*step)
                        _check_live_processes(system)
                    if stopped_after is not None:
                        await trio.sleep(stopped_after)
                        await sup.stop_all()
                _check_live_processes(system)
        assert sup.backends == ()
        nothing_is_left(system)
        _check_moves(event for event in told if isinstance(event, events.BackendMoved))

    trio.run(run, clock=MockClock(autojump_threshold=0))


def _check_live_processes(system: FakeSystem) -> None:
    ports = [child.port for child in system.children if not child.closed]
    assert len(ports) == len(set(ports))  # a key has one port, so this is one process per key


def _check_moves(moves: Iterable[events.BackendMoved]) -> None:
    last: dict[ProcessKey, tuple[Phase, int]] = {}
    for event in moves:
        phase, generation = last.get(event.key, (Phase.GONE, 0))
        assert event.previous is phase
        assert event.phase in MOVES[phase]
        assert event.generation >= generation
        last[event.key] = event.phase, event.generation
    assert {phase for phase, _ in last.values()} <= {Phase.GONE}
