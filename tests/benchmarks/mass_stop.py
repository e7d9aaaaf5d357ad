"""Ending many backends that each need one second to end."""

from __future__ import annotations

import time
from collections.abc import Iterator

import trio_sup

from ._effort import Effort
from ._figures import Figure, median
from ._isolation import run_isolated
from ._light import command, held_ports, plain, spec, start_many, wait_for_listeners

LINGER = 1.0
GOAL = 1.3
ROUNDS = 3


def figures(effort: Effort) -> Iterator[Figure]:
    count = 10 if effort is Effort.QUICK else 200
    rounds = 1 if effort is Effort.QUICK else ROUNDS
    turns = [
        {way: run_isolated(stopped, timeout=120, count=count, way=way) for way in ("plain", "tcp", "localai")}
        for _ in range(rounds)
    ]
    took = {way: median(turn[way]["seconds"] for turn in turns) for way in turns[0]}
    cpu = {way: median(turn[way]["cpu"] for turn in turns) for way in turns[0]}
    name = f"stop of {count} that need {LINGER:g} s each"
    yield Figure(name=f"{name}: plain SIGTERM and wait", measured=took["plain"], unit="s")
    for probe, how in {"tcp": "SIGTERM", "localai": "Free, SIGTERM"}.items():
        note = f"median of {rounds}; CPU of the supervisor itself: {cpu[probe]:.2f} s"
        yield Figure(name=f"{name}: {how}, proof", measured=took[probe], goal=GOAL, unit="s", note=note)


async def stopped(*, count: int, way: str) -> dict[str, float]:
    """Stop *count* light backends one way; the seconds it took, and of these this process's CPU time."""
    options = ("--linger", str(LINGER))
    if way == "plain":
        with (
            held_ports(count) as ports,
            plain([[*command(*options), "--addr", f"127.0.0.1:{port}"] for port in ports]) as processes,
        ):
            wait_for_listeners(ports)
            began, cpu = time.perf_counter(), time.process_time()
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()
            return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}
    async with trio_sup.open_supervisor() as sup:
        await start_many(sup, spec(*options, probe=way), count)
        began, cpu = time.perf_counter(), time.process_time()
        await sup.stop_all()
        return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}
