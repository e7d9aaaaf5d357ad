"""Ten thousand random operations with faults, on fake processes and a virtual clock."""

from __future__ import annotations

import errno
import math
import random
import signal
import sys
from collections.abc import Callable

import attrs
import pytest
import trio
from trio.testing import MockClock

import trio_sup
from tests.chaos.script import Player, Stage, Witness, splits
from trio_sup import BackendSpec, ExitStatus, Liveness, Phase, Readiness
from trio_sup._values import GroupRestart
from trio_sup.engine._identity import Identity, Verdict
from trio_sup.testing import FakeBackend, FakeSystem

OPERATIONS = 10_000
EPISODE = 250
FAST = {"delay": 0.1, "healthy_after": 5, "limit": 3, "period": 20, "max_start_failures": 3}

SPECS = [
    BackendSpec(name="store", command=[sys.executable]),
    BackendSpec(name="store", command=[sys.executable], grace=1),
    BackendSpec(
        name="embed",
        command=[sys.executable],
        restart_policy={"strategy": "on-failure", **FAST},
        readiness=Readiness(timeout=5, period=1),
        liveness=Liveness(period=2, failure_threshold=2, busy_timeout=0),
    ),
    BackendSpec(name="chat", command=[sys.executable], needs=["embed"], bind=True, idle_timeout=20, grace=3),
    BackendSpec(name="front", command=[sys.executable], needs=["chat", "store"], restart_policy="on-failure"),
    BackendSpec(name="left", command=[sys.executable], group="pair", restart_policy={"strategy": "always", **FAST}),
    BackendSpec(name="right", command=[sys.executable], group="pair", restart_policy={"strategy": "always", **FAST}),
    BackendSpec(name="tail", command=[sys.executable], group="row", restart_policy={"strategy": "on-failure", **FAST}),
    BackendSpec(name="drained", command=[sys.executable], stop_policy="drain", pinned=True),
]


def behaviour(rng: random.Random) -> FakeBackend:
    """One process: well-behaved as often as not."""
    if rng.random() < 0.5:
        return FakeBackend(listens_after=rng.random())
    if rng.random() < 0.1:
        return FakeBackend(stops_after=math.inf, survives_kill=True)
    return FakeBackend(
        listens_after=rng.choice([0.0, 0.3, 4.0, 100.0]),
        healthy_after=rng.choice([0.0, 0.5, 50.0]),
        health_hangs=rng.random() < 0.1,
        exits_after=rng.choice([0.0, 0.05, 3.0, 30.0, math.inf]),
        exit_code=rng.choice([0, 1]),
        stops_after=rng.choice([0.0, 0.5, 10.0, math.inf]),
        free_takes=rng.choice([0.0, 1.0, math.inf]),
        launch_error=OSError(errno.EAGAIN, "no more processes") if rng.random() < 0.05 else None,
        stderr=rng.choice([b"", b"boom\n", b"Address already in use"]),
        identity=Identity(rng.choice([Verdict.OURS, Verdict.OURS, Verdict.STRANGER, Verdict.UNKNOWN])),
    )


def faults(system: FakeSystem) -> list[Callable[[random.Random], None]]:
    def end(rng: random.Random) -> None:
        if running := system.running():
            rng.choice(running).exit(rng.choice([None, ExitStatus(signal=signal.SIGKILL), ExitStatus(code=3)]))

    def release(rng: random.Random) -> None:
        for child in system.children:
            if child.behaviour.survives_kill and not child.closed and rng.random() < 0.5:
                child.release()

    def lose_guard(rng: random.Random) -> None:
        assert system.guard_lost is not None
        system.guard_lost(1, rng.choice([None, 2]))

    def sicken_or_heal(rng: random.Random) -> None:
        if running := system.running():
            child = rng.choice(running)
            child.behaviour = attrs.evolve(child.behaviour, health_hangs=not child.behaviour.health_hangs)

    def take_port(rng: random.Random) -> None:
        port = rng.randrange(21000, 21020)
        if port not in system.held:
            system.taken ^= {port}

    return [end, end, end, release, lose_guard, sicken_or_heal, sicken_or_heal, take_port]


async def episode(rng: random.Random, operations: int, moves: set[tuple[Phase, Phase]]) -> dict[str, int]:
    """One supervisor from its opening to its end."""
    endless = iter(lambda: behaviour(rng), None)
    system = FakeSystem(endless)
    max_running = rng.choice([None, 3, 8])
    groups: dict[str, GroupRestart] = {"pair": "one-for-all", "row": "rest-for-one"}
    async with (
        trio.open_nursery() as nursery,
        trio_sup.open_supervisor(system=system, install_lock="memory", groups=groups, max_running=max_running) as sup,
    ):
        witness = Witness(sup, max_running)
        nursery.start_soon(witness.follow, sup.events())
        for spec in SPECS:
            sup.define(spec, replicas=2)
        player = Player(Stage(supervisor=sup, specs=SPECS, faults=faults(system), pause=2.0, patience=30.0), rng)
        await player.play(operations, witness.look)
    assert sup.backends == ()
    assert [child for child in system.running() if not child.behaviour.survives_kill] == []
    assert all(child.closed for child in system.children)
    assert system.held == set()
    assert player.leased == 0
    assert set(witness.phases.values()) <= {Phase.GONE, Phase.STOP_FAILED}
    moves |= witness.moves
    return player.played


def test_ten_thousand_operations_leave_nothing_and_break_no_rule(seed: int) -> None:
    rng = random.Random(seed)
    moves: set[tuple[Phase, Phase]] = set()
    played: dict[str, int] = {}

    async def bounded(operations: int) -> None:
        tasks_before = trio.lowlevel.current_statistics().tasks_living
        for name, count in (await episode(rng, operations, moves)).items():
            played[name] = played.get(name, 0) + count
        assert trio.lowlevel.current_statistics().tasks_living == tasks_before

    for operations in splits(OPERATIONS, EPISODE):
        trio.run(bounded, operations, clock=MockClock(autojump_threshold=0))
    print(dict(sorted(played.items())), f"{len(moves)} kinds of move")
    assert sum(played.values()) == OPERATIONS
    assert {phase for move in moves for phase in move} == set(Phase)


@pytest.mark.parametrize("broken", ["_port_lease.PortLeases.give_back", "_slot.Slot.end_lease"])
def test_the_chaos_would_notice_a_broken(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"trio_sup.engine.{broken}", lambda *arguments: None)
    with pytest.raises((AssertionError, ExceptionGroup)):
        test_ten_thousand_operations_leave_nothing_and_break_no_rule(1)
