"""P5, isolation: nothing that one backend or plugin does delays or breaks another one, or the supervisor.

Each fault happens beside a neighbour that is called all the time. Floods are measured in `tests/benchmarks`, plugins
that misbehave in every role are in `tests/engine/test_plugin_roles.py`, and garbage in `tests/bridge/test_garbage.py`.
"""

from __future__ import annotations

import math
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import pytest
import trio

import trio_sup
from tests.conftest import next_of
from trio_sup import BackendSpec, Phase, Readiness, events, hookimpl
from trio_sup.events import Event

from .backends import neighbour, spec_of, until

pytestmark = pytest.mark.usefixtures("nothing_survives")

LONGEST = 2.0
"""Seconds that a call to the neighbour may take on the busiest machine; alone it takes a millisecond."""

SOON = Readiness(probe="tcp", timeout=1)
Fault = Callable[[trio_sup.Supervisor], Awaitable[None]]


async def fails(error: type[Exception], spec: BackendSpec, sup: trio_sup.Supervisor) -> None:
    with pytest.raises(error):
        await sup.start(spec)


async def runs(spec: BackendSpec, sup: trio_sup.Supervisor) -> None:
    await sup.start(spec)
    await trio.sleep(0.3)
    await sup.stop(spec.name)


async def is_signalled(number: signal.Signals, spec: BackendSpec, sup: trio_sup.Supervisor) -> None:
    backend = await sup.start(spec)
    assert backend.pid is not None
    os.kill(backend.pid, number)
    await trio.sleep(0.3)
    await sup.stop(spec.name)


async def is_stopped_while_it_stops(sup: trio_sup.Supervisor) -> None:
    stream = sup.events()
    backend = await sup.start(spec_of("ignores_sigterm", grace=0.5))
    assert backend.pid is not None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sup.stop, "ignores-sigterm")
        await until(stream, events.BackendStopping, "ignores-sigterm#0")
        os.kill(backend.pid, signal.SIGSTOP)


GRPC = Readiness(timeout=1, call_timeout=0.3)
FAULTS: dict[str, Fault] = {
    "cannot be executed": partial(fails, trio_sup.InvalidCommand, BackendSpec(name="x", command=["/does/not/exist"])),
    "dies before it listens": partial(fails, trio_sup.DiedDuringStartup, spec_of("dies_before_ready")),
    "daemonizes": partial(fails, trio_sup.DiedDuringStartup, spec_of("daemonizes")),
    "never listens": partial(fails, trio_sup.NotReadyInTime, spec_of("never_listens", readiness=SOON, grace=0.2)),
    "stops itself while it starts": partial(
        fails, trio_sup.NotReadyInTime, spec_of("stops_itself", readiness=SOON, grace=0.2)
    ),
    "speaks garbage": partial(
        fails,
        trio_sup.NotReadyInTime,
        spec_of("raw_garbage", "--kind", "bytes", readiness=GRPC, grace=0.2),
    ),
    "never answers": partial(
        fails, trio_sup.NotReadyInTime, spec_of("raw_garbage", "--kind", "silence", readiness=GRPC, grace=0.2)
    ),
    "floods stderr": partial(runs, spec_of("floods_stderr", grace=0.5)),
    "closes its output": partial(runs, spec_of("closes_output", grace=0.5)),
    "ignores every polite signal": partial(runs, spec_of("ignores_sigterm", grace=0.3)),
    "forks without end": partial(
        runs, spec_of("escapes", "--with", "forking,shedding,daemon,own_session,cleared", "--ignores", grace=0.3)
    ),
    "crashes": partial(is_signalled, signal.SIGSEGV, spec_of("listens")),
    "is stopped while ready": partial(is_signalled, signal.SIGSTOP, spec_of("listens", grace=0.3)),
    "is stopped while it stops": is_stopped_while_it_stops,
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_the_neighbour_of_one_that_does_this_notices_nothing(fault: str) -> None:
    with trio.fail_after(60):
        async with trio_sup.open_supervisor() as sup, neighbour(sup) as seen:
            await FAULTS[fault](sup)
            before = seen.calls
            while seen.calls < before + 5:
                await trio.sleep(0.01)
        assert seen.longest < LONGEST
        assert sup.exit_reports("neighbour#0")[-1].cause is trio_sup.Cause.SHUTDOWN


async def test_the_neighbour_of_all_of_them_at_once_notices_nothing() -> None:
    async def one_after_the_other(names: Sequence[str]) -> None:
        for name in names:
            await FAULTS[name](sup)

    # Those that share a name, and with it a key, take turns.
    rows = [
        ["ignores every polite signal", "is stopped while it stops"],
        ["crashes", "is stopped while ready"],
        ["speaks garbage", "never answers"],
    ]
    taken = {name for row in rows for name in row}
    rows.append([name for name in FAULTS if name not in taken])
    with trio.fail_after(120):
        async with trio_sup.open_supervisor() as sup, neighbour(sup) as seen, trio.open_nursery() as nursery:
            for row in rows:
                nursery.start_soon(one_after_the_other, row)
        assert seen.longest < LONGEST


class Broken:
    """A plugin whose every part raises."""

    @hookimpl
    def trio_sup_observers(self) -> Sequence[Callable[[Event], None]]:
        def observe(event: Event) -> None:
            raise RuntimeError("broken observer")

        return [observe]

    @hookimpl
    def trio_sup_services(self) -> dict[str, Any]:
        async def serve(sup: trio_sup.Supervisor) -> None:
            raise RuntimeError("broken service")

        return {"breaks": serve}

    def budget(self, spec: BackendSpec) -> float:
        return math.nan

    async def stop(self, target: Any) -> None:
        raise AssertionError("a budget that is no number is not asked further")


async def test_a_plugin_that_is_broken_all_over_is_named_and_everything_goes_on() -> None:
    plugin = Broken()

    def take(output: object) -> None:
        raise RuntimeError("broken on_output")

    with trio.fail_after(30):
        async with trio_sup.open_supervisor(plugins=[plugin], stop_policy=plugin, on_output=take) as sup:
            stream = sup.events()
            await sup.start(spec_of("listens"))
            (report,) = await sup.stop("listens")
            assert report.gone
            assert report.report is not None
            assert not report.report.killed  # the built-in policy took over
    named = [event async for event in stream if isinstance(event, events.PluginFailed)]
    assert any("stop policy" in event.plugin for event in named)
    assert any("on_output" in event.plugin for event in named)


@pytest.fixture
def leaping_clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The wall clock leaps by years, forwards and backwards, each time it is read; how often it was is counted."""
    rng, real, reads = random.Random(1), time.time, list[float]()

    def leap() -> float:
        reads.append(real() + rng.uniform(-1, 1) * 3e8)
        return reads[-1]

    monkeypatch.setattr(time, "time", leap)
    return reads


async def test_no_deadline_depends_on_the_wall_clock(leaping_clock: list[float]) -> None:
    ports = {"strategy": "affinity", "range": "21640-21643"}
    with trio.fail_after(60):
        async with trio_sup.open_supervisor(ports=ports, shutdown_timeout=20) as sup:
            stream = sup.events()
            began = trio.current_time()
            await fails(trio_sup.NotReadyInTime, spec_of("never_listens", readiness=SOON, grace=0.3), sup)
            assert 1 <= trio.current_time() - began < 1 + 0.3 + 3

            first = await sup.start(spec_of("ignores_sigterm", grace=0.6))
            assert 0 <= (first.start_seconds or -1) < 20
            began = trio.current_time()
            (report,) = await sup.stop("ignores-sigterm")
            assert 0.6 <= trio.current_time() - began < 0.6 + 3
            assert report.report is not None
            assert 0.6 <= report.report.stop_seconds < 4
            assert 0 <= report.report.lived < 20

            # The port that was freed is in quarantine still, years or no years.
            others = [await sup.start(spec_of("listens"), replica=replica) for replica in range(2)]
            assert first.port not in {other.port for other in others}
            await next_of(stream, events.BackendReady)
            assert all(backend.phase is Phase.READY for backend in sup.backends)
            began = trio.current_time()
        assert trio.current_time() - began < 10
    assert len(leaping_clock) > 10
