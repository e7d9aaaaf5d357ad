"""Random needs, groups and leases, under random schedules: order is kept, nothing waits for ever, nothing leaks."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Any

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

import trio_sup
from tests.engine.staging import GivesUp, Stage, nothing_is_left, spec
from trio_sup import BackendSpec, Phase, Readiness, events
from trio_sup.testing import FakeBackend

NAMES = ["a", "b", "c", "d", "e", "f"]
LATE = 100_000.0
"""Seconds after which everything has settled."""


def play(schedule: Any) -> None:
    trio.run(schedule, clock=MockClock(autojump_threshold=0))


# ---- graphs of needs

graphs = st.integers(1, 7).flatmap(
    lambda size: st.tuples(
        st.permutations(range(size)),
        st.lists(st.sets(st.integers(0, size - 1), max_size=3), min_size=size, max_size=size),
        st.lists(st.integers(1, 2), min_size=size, max_size=size),
        st.lists(st.sampled_from([0.0, 1.0, 5.0, 29.0]), min_size=size, max_size=size),
        st.lists(st.sampled_from([0.0, 1.0, 7.0]), min_size=size, max_size=size),
        st.sets(st.integers(0, size - 1), min_size=1),
    )
)


@settings(max_examples=150, deadline=None)
@given(graphs)
def test_every_start_respects_the_needs_and_every_stop_reverses_them(graph: Any) -> None:
    order, chosen, replicas, starts, stops, wanted = graph
    place = {node: at for at, node in enumerate(order)}
    # Only what comes earlier in a random order may be needed, so that there is no circle.
    needs = {node: sorted(other for other in chosen[node] if place[other] < place[node]) for node in order}
    stage = Stage(**{f"s{node}": FakeBackend(listens_after=starts[node], stops_after=stops[node]) for node in order})

    async def run() -> None:
        async with trio_sup.open_supervisor(system=stage, plugins=[stage], shutdown_timeout=1000) as sup:
            keys = {}
            for node in range(len(order)):
                each = spec(f"s{node}", needs=[f"s{other}" for other in needs[node]])
                keys[node] = sup.define(each, replicas=replicas[node])
            with trio.fail_after(sum(starts) + 1):
                async with trio.open_nursery() as nursery:
                    for node in wanted:
                        for key in keys[node]:
                            nursery.start_soon(sup.start, key)
            for backend in sup.backends:
                assert backend.phase in (Phase.READY, Phase.STARTING)  # the other replicas of a need may be slower
        nothing_is_left(stage)

    play(run)
    ready: set[str] = set()
    stopping: dict[str, int] = {}
    gone: dict[str, int] = {}
    for told in stage.told:
        event = told.event
        if not isinstance(event, events.BackendMoved):
            continue
        node = int(event.key.model[1:])
        if event.phase is Phase.STARTING:
            for other in needs[node]:
                assert any(key.startswith(f"s{other}#") for key in ready), f"{event.key} before s{other}"
        if event.phase is Phase.READY:
            ready.add(str(event.key))
        if event.phase is Phase.STOPPING:
            stopping[str(event.key)] = event.sequence
        if event.phase is Phase.GONE:
            gone[str(event.key)] = event.sequence
    for key, ended in stopping.items():
        for other in needs[int(key.partition("#")[0][1:])]:
            for replica in range(replicas[other]):
                assert gone[key] < stopping[f"s{other}#{replica}"]
        assert ended < gone[key]


# ---- everything at once

delays = st.sampled_from([0.0, 0.1, 3.0])
policies = st.sampled_from([None, GivesUp(0), GivesUp(1, 0.5), GivesUp(3, 5.0)])
behaviours = st.builds(
    FakeBackend,
    listens_after=st.sampled_from([0.0, 0.5, 10.0]),
    exits_after=st.sampled_from([0.05, 2.0, 20.0, 1e9, 1e9, 1e9]),
    exit_code=st.sampled_from([0, 1]),
    stops_after=st.sampled_from([0.0, 0.0, 2.0, 40.0]),
)
members = st.fixed_dictionaries(
    {
        "needs": st.sets(st.integers(0, 5), max_size=2),
        "bind": st.booleans(),
        "group": st.sampled_from([None, "all", "rest", "rest"]),
        "restart_policy": policies,
        "idle_timeout": st.sampled_from([None, None, 7.0]),
        "behaviours": st.lists(behaviours, min_size=1, max_size=4),
        "replicas": st.sampled_from([1, 1, 2]),
    }
)
names = st.integers(0, 5)
actions = st.one_of(
    st.tuples(st.just("start"), names, st.sampled_from([0.0, 0.7, 1e6])),
    st.tuples(st.just("use"), names, st.sampled_from([0.0, 0.7, 1e6]), delays),
    st.tuples(st.just("stop"), names, st.booleans(), st.sampled_from([0.0, 1e6])),
    st.tuples(st.just("exit"), st.integers(0, 9)),
    st.tuples(st.just("stop_all"), st.booleans()),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.01, 0.6, 3.0, 30.0])),
)


def cast_of(drawn: Iterable[dict[str, Any]]) -> list[tuple[BackendSpec, int, list[FakeBackend]]]:
    cast = []
    for place, member in enumerate(drawn):
        needs = [NAMES[other] for other in sorted(member["needs"]) if other < place]
        each = BackendSpec(
            name=NAMES[place],
            command=[sys.executable],
            needs=needs,
            bind=member["bind"] and bool(needs),
            group=member["group"],
            restart_policy=member["restart_policy"],
            idle_timeout=member["idle_timeout"],
            readiness=Readiness(period=0),
        )
        cast.append((each, member["replicas"], member["behaviours"]))
    return cast


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([None, None, 4]),
    st.permutations(range(6)),
    st.lists(members, min_size=6, max_size=6),
    st.lists(actions, max_size=30),
)
def test_everything_settles_in_order_and_nothing_leaks(
    max_running: int | None, order: list[int], drawn: Any, schedule: list[Any]
) -> None:
    cast = cast_of(drawn)
    specs = {each.name: each for each, _, _ in cast}
    stage = Stage(**{each.name: [*behaviours_, FakeBackend()] for each, _, behaviours_ in cast})
    phases: dict[str, Phase] = {}
    groups: Any = {"all": "one-for-all", "rest": "rest-for-one"}

    wrong: list[str] = []

    def look(event: events.Event) -> None:
        """What holds at every moment."""
        wrong.extend(f"{backend.key} has {backend.leases} leases" for backend in backends() if backend.leases < 0)
        if isinstance(event, events.BackendMoved):
            phases[str(event.key)] = event.phase
            if event.phase is Phase.STARTING:
                for need in specs[event.key.model].needs:
                    if not any(phase is Phase.READY for key, phase in phases.items() if key.startswith(f"{need}#")):
                        wrong.append(f"{event.key} started without {need}: {phases}")

    def backends() -> tuple[trio_sup.Backend, ...]:
        return supervisors[0].backends if supervisors else ()

    class Looks:
        @trio_sup.hookimpl
        def trio_sup_observers(self) -> list[Any]:
            return [look]

    supervisors: list[trio_sup.Supervisor] = []

    async def run() -> None:
        async with trio_sup.open_supervisor(
            system=stage,
            plugins=[stage, Looks()],
            groups=groups,
            install_lock="memory",
            shutdown_timeout=1000,
            max_running=max_running,
        ) as sup:
            supervisors.append(sup)
            for place in order:  # the order of definitions is not that of needs
                each, replicas, _ = cast[place]
                sup.define(each, replicas=replicas)

            async def start(place: int, patience: float) -> None:
                with trio.move_on_after(patience):
                    with suppress(trio_sup.StartFailed):
                        await sup.start(NAMES[place])

            async def use(place: int, patience: float, length: float) -> None:
                with trio.move_on_after(patience):
                    with suppress(trio_sup.StartFailed):
                        async with sup.use(NAMES[place]) as backend:
                            assert backend.phase is Phase.READY
                            await trio.sleep(length)

            async def stop(place: int, force: bool, patience: float) -> None:
                with trio.move_on_after(patience):
                    reports = await sup.stop(NAMES[place], force=force)
                    assert all(report.gone for report in reports)

            with trio.fail_after(LATE):
                async with trio.open_nursery() as nursery:
                    for name, *arguments in schedule:
                        running = stage.running()
                        if name == "start":
                            nursery.start_soon(start, *arguments)
                        elif name == "use":
                            nursery.start_soon(use, *arguments)
                        elif name == "stop":
                            nursery.start_soon(stop, *arguments)
                        elif name == "stop_all":
                            nursery.start_soon(partial(sup.stop_all, force=arguments[0]))
                        elif name == "exit" and running:
                            running[arguments[0] % len(running)].exit(trio_sup.ExitStatus(code=1))
                        elif name == "wait":
                            await trio.sleep(arguments[0])
                        await trio.lowlevel.checkpoint()
            await trio.sleep(LATE)
            for backend in sup.backends:
                assert backend.phase in (Phase.READY, Phase.GIVEN_UP), f"{backend.key} waits for {backend.waits_for}"
                assert backend.leases == 0
        nothing_is_left(stage)
        assert wrong == []
        assert [told.event for told in stage.told if isinstance(told.event, events.PluginFailed)] == []

    play(run)
