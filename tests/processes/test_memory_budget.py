"""The memory budget, on real processes that hold real memory."""

from __future__ import annotations

import attrs
import trio

import trio_sup
from tests.conftest import child_command
from trio_sup import BackendSpec, Cause, Readiness


def holder(name: str, mib: int) -> BackendSpec:
    # It has declared less than it will hold, so that only measuring it can tell.
    return BackendSpec(
        name=name,
        command=child_command("holds_memory", "--mib", str(mib)),
        readiness=Readiness(probe="tcp", timeout=20),
        memory="10MiB",
        grace=5,
    )


async def test_the_memory_that_trees_really_hold_makes_the_next_one_evict(nothing_survives: None) -> None:
    with trio.fail_after(60):
        async with trio_sup.open_supervisor(memory_budget="300MiB") as sup:
            await sup.start(holder("one", 120))
            await sup.start(holder("two", 120))
            assert len(sup.backends) == 2
            await sup.start(holder("three", 10))  # some 240 MiB are in use, and 10 are declared: it fits
            assert len(sup.backends) == 3
            await sup.start(attrs.evolve(holder("four", 10), memory="100MiB"))
            assert [backend.key.model for backend in sup.backends] == ["four", "three", "two"]
            assert sup.exit_reports("one#0")[-1].cause is Cause.EVICTED
