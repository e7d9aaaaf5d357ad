"""How soon the end of a ready backend is known, replaced, and its tree proven gone."""

from __future__ import annotations

import logging
import os
import random
import select
import signal
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

import attrs
import trio

import trio_sup
from trio_sup import Supervisor, events
from trio_sup.engine import EventStream
from trio_sup.engine._restarting import SHORTEST_CYCLE
from trio_sup.strategies import AttemptEnd, RestartAfter

from ._effort import Effort
from ._figures import Figure, median, percentile
from ._isolation import run_isolated
from ._light import command, held_ports, plain, spec, start_many, wait_for_listeners

E = TypeVar("E", bound=events.BackendMoved)

EVENT_GOAL = 0.001
REPLACEMENT_GOAL = 0.01


def figures(effort: Effort) -> Iterator[Figure]:
    repeats = effort.repeats(100)
    others = (0,) if effort is Effort.QUICK else (0, 200)
    for beside in others:
        found = run_isolated(ends, timeout=120, repeats=repeats, beside=beside)
        where = f" beside {beside} others" if beside else ""

        def figure(name: str, samples: list[float], goal: float | None, note: str = "", where: str = where) -> Figure:
            tail = f"p99 {percentile(samples, 0.99) * 1e3:.2f} ms, of {len(samples)}{note}"
            return Figure(name=f"{name}{where}, p50", measured=median(samples), goal=goal, unit="ms", note=tail)

        yield figure(
            "SIGKILL of a ready backend to event",
            found["event"],
            EVENT_GOAL,
            f"; a plain process, from SIGKILL until a poll returns: {median(found['plain']) * 1e3:.2f} ms",
        )
        yield figure("SIGKILL of a ready backend to replacement spawned", found["replaced"], REPLACEMENT_GOAL)
        yield figure("SIGKILL of a ready backend to tree proven gone", found["gone"], REPLACEMENT_GOAL)
        found = run_isolated(restarts, timeout=120, repeats=repeats, beside=beside)
        yield figure(
            "SIGKILL of a ready backend to restarted by policy, no backoff", found["spawned"], REPLACEMENT_GOAL
        )
        yield figure("SIGKILL of a ready backend to ready again, no backoff", found["ready"], None)


async def ends(*, repeats: int, beside: int) -> dict[str, list[float]]:
    """Seconds from SIGKILL until the event, until the replacement is spawned, and until the tree is proven gone.

    The last without a replacement: nobody asks for one. And turn by turn, how soon a plain process is known to have
    ended.
    """
    took: dict[str, list[float]] = {"plain": [], "event": [], "replaced": [], "gone": []}
    async with trio_sup.open_supervisor() as sup:
        await start_many(sup, spec(probe="tcp"), beside)
        for _ in range(repeats):
            took["plain"].append(_plain_end())
            stream, pid = await _ready(sup)
            began = _kill(pid)
            await _next(stream, events.BackendStopping)
            took["event"].append(time.perf_counter() - began)
            await _next(stream, events.BackendGone)
            took["gone"].append(time.perf_counter() - began)
        for _ in range(repeats):
            stream, pid = await _ready(sup)
            began = _kill(pid)
            await _next(stream, events.BackendStopping)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_ready, sup)
                await _next(stream, events.BackendStarting)
                took["replaced"].append(time.perf_counter() - began)
        await sup.stop_all(force=True)
    return took


@attrs.frozen
class AtOnce:
    """Restarts whatever has ended, without a wait."""

    def decide(self, ends: Sequence[AttemptEnd], rng: random.Random) -> RestartAfter:
        return RestartAfter(0)


async def restarts(*, repeats: int, beside: int) -> dict[str, list[float]]:
    """Seconds from SIGKILL until the restart policy's replacement is spawned, and until that is ready."""
    # It warns of each restart; nobody has set up logging here, so all of that would end up on stderr.
    logging.getLogger("trio_sup.engine").setLevel(logging.ERROR)
    took: dict[str, list[float]] = {"spawned": [], "ready": []}
    async with trio_sup.open_supervisor(restart_policy=AtOnce()) as sup:
        await start_many(sup, spec(probe="tcp"), beside)
        stream, pid = await _ready(sup)
        for _ in range(repeats):
            await trio.sleep(SHORTEST_CYCLE)  # what ends sooner has to wait, so that nothing spins
            began = _kill(pid)
            await _next(stream, events.BackendStarting)
            took["spawned"].append(time.perf_counter() - began)
            pid = (await _next(stream, events.BackendReady)).pid
            took["ready"].append(time.perf_counter() - began)
        await sup.stop_all(force=True)
    return took


async def _ready(sup: Supervisor) -> tuple[EventStream, int]:
    """Have the backend ready; what happens from then on, and its pid."""
    backend = await sup.start(spec(probe="tcp"), model="victim")
    assert backend.pid is not None
    return sup.events(), backend.pid


def _plain_end() -> float:
    """Seconds from SIGKILL of a plain process until a blocking poll of its pidfd returns."""
    with held_ports(1) as ports, plain([[*command(), "--addr", f"127.0.0.1:{ports[0]}"]]) as (process,):
        wait_for_listeners(ports)
        pidfd = os.pidfd_open(process.pid)
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            began = _kill(process.pid)
            poll.poll()
            return time.perf_counter() - began
        finally:
            os.close(pidfd)


def _kill(pid: int) -> float:
    began = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    return began


async def _next(stream: EventStream, kind: type[E]) -> E:
    async for event in stream:
        if isinstance(event, kind) and event.key.model == "victim":
            return event
    raise AssertionError(f"the supervisor ended before any {kind.__name__}")
