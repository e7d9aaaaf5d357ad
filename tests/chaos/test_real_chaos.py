"""Five hundred random operations with faults on real processes, and a soak for those who have an hour."""

from __future__ import annotations

import os
import random
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
import trio

import trio_sup
from tests.chaos.script import Player, Stage, Witness
from tests.conftest import child_command
from trio_sup import BackendSpec, Liveness, Readiness
from trio_sup.guard import _proc
from trio_sup.testing import scripted_backend

OPERATIONS = 500
RANGE = (23000, 23199)
FAST = {"delay": 0.05, "max_delay": 0.5, "healthy_after": 1, "limit": 6, "period": 20, "max_start_failures": 3}
RESTARTED = {"strategy": "on-failure", **FAST}
READY = Readiness(probe="tcp", timeout=5, period=0.5)


def spec(name: str, child: str, **fields: object) -> BackendSpec:
    return BackendSpec(**{"name": name, "command": child_command(child), "readiness": READY, "grace": 0.5, **fields})


SPECS = [
    spec("plain", "listens"),
    spec("plain", "listens", stop_policy="kill"),
    spec("forks", "leaves_children", restart_policy=RESTARTED),
    spec("deaf", "ignores_sigterm", idle_timeout=1),
    spec("broken", "dies_before_ready", restart_policy=RESTARTED),
    spec("silent", "never_listens", readiness=Readiness(probe="tcp", timeout=0.5)),
    spec("detached", "daemonizes"),
    spec("careless", "binds_without_reuse", restart_policy=RESTARTED),
    spec("loud", "floods_stderr"),
    spec("needing", "listens", needs=["plain"], bind=True, restart_policy=RESTARTED),
    scripted_backend(
        name="grpc",
        fork=["plain", "setsid"],
        grace=0.5,
        group="all",
        readiness=Readiness(timeout=10, period=0.5, call_timeout=0.5),
        liveness=Liveness(period=0.5, call_timeout=0.5, failure_threshold=2, busy_timeout=0),
        restart_policy=RESTARTED,
    ),
    spec("sibling", "listens", group="all", restart_policy=RESTARTED),
]


@contextmanager
def strangers(sockets: list[socket.socket]) -> Iterator[None]:
    try:
        yield
    finally:
        for each in sockets:
            each.close()


def faults(sup: trio_sup.Supervisor, taken: list[socket.socket]) -> list[Callable[[random.Random], None]]:
    def any_pid(rng: random.Random) -> int | None:
        """Some process of some backend's tree."""
        leaders = {backend.pid for backend in sup.backends if backend.pid is not None}
        pids = [process.pid for process in _proc.scan() if process.alive and {process.pid, process.ppid} & leaders]
        return rng.choice(pids) if pids else None

    def hit(rng: random.Random) -> None:
        pid = any_pid(rng)
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP, signal.SIGSEGV]))

    def kill_the_guard(rng: random.Random) -> None:
        guards = [
            process.pid
            for process in _proc.scan()
            if process.alive and process.ppid == os.getpid() and "_helper.py" in _proc.command_of(process.pid)
        ]
        if guards and rng.random() < 0.2:
            os.kill(rng.choice(guards), signal.SIGKILL)

    def take_a_port(rng: random.Random) -> None:
        if taken and rng.random() < 0.5:
            taken.pop().close()
            return
        stranger = socket.socket()
        try:
            stranger.bind(("127.0.0.1", rng.randrange(*RANGE)))
            stranger.listen()
        except OSError:
            stranger.close()
        else:
            taken.append(stranger)

    return [hit, hit, hit, kill_the_guard, take_a_port]


async def play(rng: random.Random, operations: int) -> dict[str, int]:
    """One supervisor on real processes, from its opening to its end."""
    taken: list[socket.socket] = []
    with strangers(taken):
        async with (
            trio.open_nursery() as nursery,
            trio_sup.open_supervisor(
                ports={"strategy": "affinity", "range": RANGE, "quarantine": 0.5},
                groups={"all": "one-for-all"},
                shutdown_timeout=15,
            ) as sup,
        ):
            witness = Witness(sup)
            nursery.start_soon(witness.follow, sup.events())
            for each in SPECS:
                sup.define(each, replicas=2)
            player = Player(Stage(supervisor=sup, specs=SPECS, faults=faults(sup, taken), pause=0.2, patience=3.0), rng)
            await player.play(operations, witness.look)
    assert sup.backends == ()
    return player.played


@pytest.mark.slow
async def test_five_hundred_operations_on_real_processes_leave_nothing(seed: int, nothing_survives: None) -> None:
    with trio.fail_after(420):
        played = await play(random.Random(seed), OPERATIONS)
    print(dict(sorted(played.items())))
    assert sum(played.values()) == OPERATIONS


async def test_thirty_operations_on_real_processes_leave_nothing(seed: int, nothing_survives: None) -> None:
    with trio.fail_after(120):
        await play(random.Random(seed), 30)
