"""Starting many light backends at once, against plain Popen of the same."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator

import trio

import trio_sup

from ._effort import Effort
from ._figures import Figure, median
from ._isolation import run_isolated
from ._light import command, held_ports, plain, spec, start_many, wait_for_listeners

GOALS = {"tcp": 1.15, "localai": 1.4}
WAYS = ("plain", *GOALS)
ROUNDS = {Effort.QUICK: {10: 1}, Effort.NORMAL: {50: 5, 200: 5}, Effort.FULL: {50: 11, 200: 11}}
FIRST_PORT = 10000
BEAT = 0.01
"""Seconds between two looks at the time."""


def figures(effort: Effort) -> Iterator[Figure]:
    # Never the same ports twice: what lingers there of old connections makes taking a port dearer.
    next_port = FIRST_PORT
    for count, rounds in ROUNDS[effort].items():
        turns = []
        for _ in range(rounds):
            # Turn by turn, so that whatever else the machine does meets all of them alike.
            turn = {}
            for way in WAYS:
                turn[way] = run_isolated(started, timeout=120, count=count, way=way, first_port=next_port)
                next_port += count
            turns.append(turn)
        took, own, everything, pause = (
            {way: median(turn[way][what] for turn in turns) for way in WAYS}
            for what in ("seconds", "own", "everything", "pause")
        )
        note = f"median of {rounds}; CPU of the launching process itself: {own['plain']:.2f} s"
        yield Figure(
            name=f"start of {count}: plain Popen until all accept", measured=took["plain"], unit="s", note=note
        )
        for probe, goal in GOALS.items():
            yield Figure(
                name=f"start of {count}: probe {probe}, against plain Popen",
                measured=took[probe] / took["plain"],
                goal=goal,
                unit="x",
                note=f"{took[probe]:.2f} s; CPU of the supervisor itself: {own[probe]:.2f} s; "
                f"CPU of everything that runs: {everything[probe] / everything['plain']:.2f} x",
            )
        yield Figure(
            name=f"start of {count}: longest pause of all other tasks",
            measured=max(pause.values()),
            unit="s",
            note="health calls to other backends, their exits and stops wait for so long",
        )


async def started(*, count: int, way: str, first_port: int) -> dict[str, float]:
    """Start *count* light backends one way.

    Returns:
        The seconds until all are ready; the CPU seconds that this process used meanwhile; these together with the
        CPU seconds that its children used in their lives; and the longest pause, in seconds, of all other tasks.
    """
    pauses = [0.0]
    if way == "plain":
        with held_ports(count) as ports:
            commands = [[*command(), "--addr", f"127.0.0.1:{port}"] for port in ports]
            began, cpu = time.perf_counter(), time.process_time()
            with plain(commands):
                wait_for_listeners(ports)
                took, own = time.perf_counter() - began, time.process_time() - cpu
    else:
        async with trio_sup.open_supervisor(
            ports={"strategy": "affinity", "range": f"{first_port}-{first_port + 2 * count}"}
        ) as sup:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_note_pauses, pauses)
                began, cpu = time.perf_counter(), time.process_time()
                await start_many(sup, spec(probe=way), count)
                took, own = time.perf_counter() - began, time.process_time() - cpu
                await trio.sleep(BEAT)
                nursery.cancel_scope.cancel()
            await sup.stop_all(force=True)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": took,
        "own": own,
        "everything": own + children.ru_utime + children.ru_stime,
        "pause": max(pauses),
    }


async def _note_pauses(pauses: list[float]) -> None:
    """For how long at a time no other task got a turn."""
    while True:
        began = time.perf_counter()
        await trio.sleep(BEAT)
        pauses.append(time.perf_counter() - began - BEAT)
