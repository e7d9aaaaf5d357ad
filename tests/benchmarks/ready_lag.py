"""From the instant a backend could answer to the return of start(), beside a loop that sleeps first."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import attrs
import trio

import trio_sup
from tests.conftest import child_command
from trio_sup import BackendSpec, CallFailed, ProcessKey, Supervisor
from trio_sup.bridge import open_channel
from trio_sup.engine import Output
from trio_sup.protocol import HEALTH, backend_pb2

from ._effort import Effort
from ._figures import Figure, median, percentile
from ._isolation import run_isolated
from ._light import held_ports, plain

T = TypeVar("T")

P50_GOAL, P99_GOAL = 0.01, 0.03
SERVERS = {"grpcio": "grpc_core", "grpclib": "grpc_grpclib", "raw h2": "raw_h2"}
NAIVE_SLEEP = 0.2
"""Seconds that the naive loop sleeps before each check. Source: the LocalAI worker."""
SPREAD = 0.2
"""Up to so many seconds are added to a delay, or the naive loop would always look at the same distance."""


@attrs.frozen
class Series:
    """How servers that need some time are measured.

    Args:
        delay: Seconds that the server sleeps before it serves, on top of its imports.
        at_once: How many run side by side.
        apart: Seconds between their launches: importing in one would delay the serving of another.
    """

    delay: float
    samples: int
    naive_samples: int
    at_once: int = 1
    apart: float = 0.0


SERIES = {
    Effort.QUICK: [Series(0.05, 2, 1)],
    Effort.NORMAL: [Series(0.05, 24, 10), Series(0.3, 24, 10), Series(3, 18, 6, at_once=6, apart=0.5)],
}
SERIES[Effort.FULL] = [
    Series(0.05, 100, 40), Series(0.3, 100, 40), Series(3, 48, 18, at_once=6, apart=0.5),
    Series(20, 16, 16, at_once=8, apart=1),
]  # fmt: skip


def figures(effort: Effort) -> Iterator[Figure]:
    for server, child in SERVERS.items():
        all_lags: list[float] = []
        for series in SERIES[effort]:
            found = run_isolated(lags, timeout=600, child=child, series=attrs.asdict(series))
            all_lags += found["lags"]
            naive, call = (median(samples) * 1e3 for samples in (found["naive"], found["call"]))
            yield Figure(
                name=f"ready lag, {server} server that needs {series.delay:g} s, p50",
                measured=median(found["lags"]),
                goal=P50_GOAL,
                unit="ms",
                note=f"of {series.samples}; a loop that sleeps {NAIVE_SLEEP * 1e3:g} ms first: {naive:.0f} ms, "
                f"of these {call:.1f} ms for the call that succeeds",
            )
        p99 = percentile(all_lags, 0.99)
        note = f"of {len(all_lags)}, all delays"
        yield Figure(name=f"ready lag, {server} server, p99", measured=p99, goal=P99_GOAL, unit="ms", note=note)


async def lags(*, child: str, series: dict[str, float]) -> dict[str, list[float]]:
    """Lags in seconds, of the supervisor and of the naive loop, for the same servers with the same delays.

    And what the naive loop's successful calls took: no other way to be ready could do without them.
    """
    settings = Series(**series)  # type: ignore[arg-type]  # as it was before it travelled as JSON
    served: dict[ProcessKey, bytes] = {}

    def take(output: Output) -> None:
        served[output.key] = served.get(output.key, b"") + output.data

    async with trio_sup.open_supervisor(on_output=take) as sup:

        async def supervised(number: int, command: list[str]) -> float:
            return await _supervised_lag(sup, number, command, served)

        lags = await _several(supervised, settings.samples, child, settings)
    naive = await _several(_naive_lag, settings.naive_samples, child, settings)
    return {"lags": lags, "naive": [lag for lag, _ in naive], "call": [call for _, call in naive]}


async def _several(
    measure: Callable[[int, list[str]], Awaitable[T]], samples: int, child: str, series: Series
) -> list[T]:
    chance = random.Random(1)
    took: list[T] = []
    limit = trio.CapacityLimiter(series.at_once)

    async def one(number: int, delay: float) -> None:
        async with limit:
            await trio.sleep(series.apart * (number % series.at_once))
            took.append(await measure(number, child_command(child, "--delay", str(delay))))

    async with trio.open_nursery() as nursery:
        for number in range(samples):
            nursery.start_soon(one, number, series.delay + chance.uniform(0, min(series.delay, SPREAD)))
    return took


async def _supervised_lag(sup: Supervisor, number: int, command: list[str], served: dict[ProcessKey, bytes]) -> float:
    backend = await sup.start(BackendSpec(name="x", command=command), replica=number)
    returned = time.monotonic()
    while not served.get(backend.key, b"").endswith(b"\n"):
        await trio.sleep(0.01)  # it writes after it listens
    await sup.stop(backend.key, force=True)
    return returned - _instant(served[backend.key])


async def _naive_lag(number: int, command: list[str]) -> tuple[float, float]:
    with held_ports(1) as (port,):
        address = f"127.0.0.1:{port}"
        with plain([[*command, "--addr", address]], stdout=subprocess.PIPE) as (process,):
            async with open_channel(address) as channel:
                while True:
                    await trio.sleep(NAIVE_SLEEP)
                    called = time.monotonic()
                    try:
                        await channel.unary_unary(HEALTH, backend_pb2.HealthMessage(), backend_pb2.Reply, timeout=2)
                        break
                    except CallFailed:
                        continue
                returned = time.monotonic()
            assert process.stdout is not None
            return returned - _instant(process.stdout.readline()), returned - called


def _instant(line: bytes) -> float:
    """When it began to serve, on the monotonic clock, from the line that the child prints."""
    word, instant = line.split()
    assert word == b"serving"
    return float(instant)
