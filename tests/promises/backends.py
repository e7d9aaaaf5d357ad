"""What the tests of the promises share: real backends, their trees, and a neighbour that must not notice anything."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

import trio_sup
from tests.conftest import child_command
from trio_sup import BackendSpec, Readiness, events
from trio_sup.guard import _proc
from trio_sup.protocol import backend_pb2

TCP = Readiness(probe="tcp", timeout=30)


def spec_of(child: str, *arguments: str, **fields: Any) -> BackendSpec:
    """The specification of the child in ``tests/children`` that is named for its vice."""
    fields.setdefault("readiness", TCP)
    return BackendSpec(name=child.replace("_", "-"), command=child_command(child, *arguments), **fields)


def alive(pids: Iterable[int]) -> list[int]:
    processes = map(_proc.read_process, pids)
    return [process.pid for process in processes if process is not None and process.alive]


def tree_of(pid: int) -> list[int]:
    """A process and all that descends from it, or has its session or group."""
    processes = _proc.scan()
    roots = [each for each in processes if pid in (each.pid, each.session, each.pgrp)]
    return [each.pid for each in _proc.with_descendants(roots, processes) if each.alive]


async def until(stream: trio_sup.engine.EventStream, kind: type[events.BackendEvent], key: str) -> Any:
    """The next event of that kind about *key*."""
    async for event in stream:
        if isinstance(event, kind) and str(event.key) == key:
            return event
    raise AssertionError(f"the supervisor ended before any {kind.__name__} of {key}")


@attrs.define
class Neighbour:
    """How long the calls of one that behaves took, in seconds; the longest lately, and how many there were."""

    longest: float = 0.0
    calls: int = 0


@asynccontextmanager
async def neighbour(sup: trio_sup.Supervisor, *, every: float = 0.02) -> AsyncIterator[Neighbour]:
    """A backend that is called over and over for the length of the block; every call must be answered."""
    spec = BackendSpec(name="neighbour", command=child_command("raw_h2"), grace=5)
    backend = await sup.start(spec)
    seen = Neighbour()

    async def call() -> None:
        async with sup.channel("neighbour#0") as channel:
            while True:
                began = trio.current_time()
                reply = await channel.unary_unary(
                    "/backend.Backend/Health", backend_pb2.HealthMessage(), backend_pb2.Reply, timeout=10
                )
                assert reply.message == b"OK"
                seen.longest = max(seen.longest, trio.current_time() - began)
                seen.calls += 1
                await trio.sleep(every)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        yield seen
        nursery.cancel_scope.cancel()
    (now,) = [each for each in sup.backends if str(each.key) == "neighbour#0"]
    assert now == backend  # not even started anew


def said_by(path: Path) -> str:
    """What a file holds, once it is there."""
    return path.read_text() if path.exists() else ""
