"""What one backend that floods its output costs the others and the supervisor, without and with log files."""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import trio

import trio_sup
from trio_sup import BackendSpec, Readiness, Supervisor
from trio_sup.engine import Output
from trio_sup.protocol import HEALTH, backend_pb2

from ._effort import Effort
from ._figures import Figure, median, percentile
from ._isolation import run_isolated
from ._light import spec, start_many
from .idle_cost import memory

CHILD = Path(__file__).parent / "children" / "floods.py"
OTHERS = 10
INTERVAL = 0.001
"""Seconds between two calls: enough for the supervisor to do something else."""

P99_GOAL = 0.010
SPEED_GOAL = 200e6
MEMORY_GOAL = 8e6


def figures(effort: Effort) -> Iterator[Figure]:
    seconds = 1.0 if effort is Effort.QUICK else 5.0 * effort.repeats(1)
    for files in (False, True):
        found = run_isolated(flood, timeout=3 * seconds + 60, seconds=seconds, files=files)
        during, before = found["during"], found["before"]
        where = "one floods, with log files" if files else "one floods"
        yield Figure(
            name=f"{where}: Health calls of {OTHERS} others, p99",
            measured=percentile(during, 0.99),
            goal=P99_GOAL,
            unit="ms",
            note=f"p50 {median(during) * 1e3:.2f} ms; before it p50 {median(before) * 1e3:.2f} ms, "
            f"p99 {percentile(before, 0.99) * 1e3:.2f} ms; {len(during)} calls",
        )
        yield Figure(
            name=f"{where}: time to drain 200 MB",
            measured=SPEED_GOAL / found["speed"],
            goal=1.0,
            unit="s",
            note=f"{found['speed'] / 1e6:.0f} MB/s, while the others are called",
        )
        yield Figure(
            name=f"{where}: memory it adds to the supervisor",
            measured=max(found["memory"] - found["memory_before"], 0),
            goal=MEMORY_GOAL,
            unit="MB",
            note=f"resident; {found['memory_before'] / 1e6:.1f} MB before it",
        )


async def flood(*, seconds: float, files: bool) -> dict[str, object]:
    """Call light backends for *seconds* before and during a flood."""
    drained = 0

    def count(output: Output) -> None:
        nonlocal drained
        if output.key.model == "floods":
            drained += len(output.data)

    with tempfile.TemporaryDirectory() as directory:
        async with trio_sup.open_supervisor(on_output=count, log_dir=directory if files else None) as sup:
            await start_many(sup, spec(probe="localai"), OTHERS)
            before = await calls(sup, seconds)
            memory_before = memory(os.getpid())
            await sup.start(
                BackendSpec(
                    name="floods",
                    command=[sys.executable, "-I", "-S", str(CHILD)],
                    readiness=Readiness(probe="tcp"),
                )
            )
            drained_before, began = drained, time.perf_counter()
            during = await calls(sup, seconds)
            speed = (drained - drained_before) / (time.perf_counter() - began)
            memory_after = memory(os.getpid())
            await sup.stop_all(force=True)
    return {
        "before": before,
        "during": during,
        "speed": speed,
        "memory_before": memory_before,
        "memory": memory_after,
    }


async def calls(sup: Supervisor, seconds: float) -> list[float]:
    """What each of the Health calls takes that are made one after the other for so long, round and round."""
    end = time.perf_counter() + seconds
    took = []
    for replica in itertools.cycle(range(OTHERS)):
        async with sup.channel(f"light#{replica}") as channel:
            began = time.perf_counter()
            await channel.unary_unary(HEALTH, backend_pb2.HealthMessage(), backend_pb2.Reply, timeout=5)
            took.append(time.perf_counter() - began)
        if time.perf_counter() > end:
            break
        await trio.sleep(INTERVAL)
    return took
