"""What many ready backends cost while nothing happens but their checks."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from pathlib import Path

import trio

import trio_sup
from trio_sup import LogSettings
from trio_sup.guard._proc import command_of, scan

from ._effort import Effort
from ._figures import Figure
from ._isolation import run_isolated
from ._light import spec, start_many

CPU_GOAL = 0.02
DESCRIPTORS_GOAL = 5.0
BASE_BYTES = 60e6
BACKEND_BYTES = 100e3
RING_BYTES = LogSettings().ring_bytes
SETTLE = 1.0
CHECKED_EVERY = 10.0


def figures(effort: Effort) -> Iterator[Figure]:
    count, seconds, every = (10, 1.0, 0.5) if effort is Effort.QUICK else (200, 2 * CHECKED_EVERY, CHECKED_EVERY)
    found = run_isolated(idle, timeout=seconds + 120, count=count, seconds=seconds, checked_every=every)
    own, guard = (used / seconds for used in (found["cpu"], found["guard_cpu"]))
    rings = count * RING_BYTES
    yield Figure(
        name=f"{count} ready backends at rest: share of one core",
        measured=own + guard,
        goal=CPU_GOAL,
        unit="%",
        note=f"over {seconds:g} s; supervisor {own:.3%}, guard {guard:.3%}; checked every {every:g} s",
    )
    yield Figure(
        name=f"{count} ready backends at rest: memory",
        measured=found["memory"] + found["guard_memory"],
        goal=BASE_BYTES + count * BACKEND_BYTES + rings,
        unit="MB",
        note=f"resident; without any backend {found['memory_before'] / 1e6:.1f} MB; now supervisor "
        f"{found['memory'] / 1e6:.1f} MB, guard {found['guard_memory'] / 1e6:.1f} MB; "
        f"the rings are full: {rings / 1e6:.1f} MB",
    )
    yield Figure(
        name=f"{count} ready backends: descriptors each",
        measured=(found["descriptors"] - found["descriptors_before"]) / count,
        goal=DESCRIPTORS_GOAL,
        unit="",
        note=f"besides {found['descriptors_before']} without any backend",
    )


async def idle(*, count: int, seconds: float, checked_every: float) -> dict[str, float]:
    """Keep *count* backends ready for *seconds*; what that costs in CPU seconds, bytes and descriptors."""
    async with trio_sup.open_supervisor() as sup:
        guard = _guard()
        before = {"descriptors_before": _descriptors(), "memory_before": memory(os.getpid())}
        light = spec("--fill", str(RING_BYTES), probe="localai", checked_every=checked_every)
        await start_many(sup, light, count)
        gc.collect()
        await trio.sleep(SETTLE)
        cpu, guard_cpu = time.process_time(), _cpu(guard)
        await trio.sleep(seconds)
        result = {
            **before,
            "cpu": time.process_time() - cpu,
            "guard_cpu": _cpu(guard) - guard_cpu,
            "memory": memory(os.getpid()),
            "guard_memory": memory(guard),
            "descriptors": _descriptors(),
        }
        await sup.stop_all(force=True)
    return result


def _guard() -> int:
    """The pid of the guard, the only child so far."""
    (guard,) = (process.pid for process in scan() if process.ppid == os.getpid())
    assert "_helper.py" in command_of(guard)
    return guard


def _cpu(pid: int) -> float:
    """Seconds of CPU time that a process has used, in steps of a clock tick."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> int:
    """Resident bytes of a process, those it shares with others included."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
