"""Random schedules of start, stop, kill and cancel, played on the engine with fake processes."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

import trio_sup
from trio_sup import BackendSpec, Phase, ProcessKey, events
from trio_sup._phases import MOVES
from trio_sup.testing import FakeBackend, FakeSystem

SPECS = [BackendSpec(name="store", command=[sys.executable], grace=grace) for grace in (1, 2)]

times = st.sampled_from([0.0, 0.001, 0.1, 1.0, 7.0, 40.0])
behaviours = st.builds(
    FakeBackend,
    listens_after=times,
    healthy_after=times,
    exits_after=st.sampled_from([0.0, 0.05, 3.0, 1e9, 1e9]),
    stops_after=times,
    free_takes=times,
    stderr=st.sampled_from([b"", b"Address already in use"]),
)
actions = st.one_of(
    st.tuples(st.just("start"), st.integers(0, 2), st.integers(0, 1), st.booleans(), st.sampled_from([0.0, 0.5, 50.0])),
    st.tuples(st.just("stop"), st.integers(0, 2), st.booleans(), st.sampled_from([0.0, 0.5, 50.0])),
    st.tuples(st.just("stop_all"), st.booleans()),
    st.tuples(st.just("exit"), st.integers(0, 5)),
    st.tuples(st.just("wait"), times),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(behaviours, min_size=1, max_size=6), st.lists(actions, max_size=25))
def test_nothing_leaks_and_no_key_runs_twice(processes: list[FakeBackend], schedule: list[Any]) -> None:
    async def play() -> None:
        system = FakeSystem(processes)
        phases: dict[ProcessKey, Phase] = {}

        def check_live_processes() -> None:
            ports = [child.port for child in system.children if not child.closed]
            assert len(ports) == len(set(ports))  # a key has one port, so this is one process per key

        async with trio_sup.open_supervisor(system=system, install_lock="memory") as sup:
            stream = sup.events()

            async def start(replica: int, spec: int, replace: bool, patience: float) -> None:
                with trio.move_on_after(patience):
                    try:
                        backend = await sup.start(SPECS[spec], replica=replica, replace=replace)
                        assert backend.phase is Phase.READY
                    except (trio_sup.StartFailed, trio_sup.SpecConflict):
                        pass

            async def stop(replica: int, force: bool, patience: float) -> None:
                with trio.move_on_after(patience):
                    await sup.stop(f"store#{replica}", force=force)

            async with trio.open_nursery() as nursery:
                for name, *arguments in schedule:
                    running = system.running()
                    if name == "start":
                        nursery.start_soon(start, *arguments)
                    elif name == "stop":
                        nursery.start_soon(stop, *arguments)
                    elif name == "stop_all":
                        nursery.start_soon(partial(sup.stop_all, force=arguments[0]))
                    elif name == "exit" and running:
                        running[arguments[0] % len(running)].exit()
                    elif name == "wait":
                        await trio.sleep(arguments[0])
                    await trio.lowlevel.checkpoint()
                    check_live_processes()
        assert sup.backends == ()
        assert system.running() == []
        assert all(child.closed for child in system.children)
        assert system.held == set()
        generations: dict[ProcessKey, int] = {}
        async for event in stream:
            if isinstance(event, events.BackendMoved):
                assert event.previous is phases.get(event.key, Phase.GONE)
                assert event.phase in MOVES[event.previous]
                assert event.generation >= generations.get(event.key, 0)
                phases[event.key], generations[event.key] = event.phase, event.generation
        assert set(phases.values()) <= {Phase.GONE}

    trio.run(play, clock=MockClock(autojump_threshold=0))
