"""One Health call on a channel that is connected already."""

from __future__ import annotations

import time
from collections.abc import Iterator

import trio_sup
from tests.conftest import child_command
from trio_sup import BackendSpec
from trio_sup.protocol import HEALTH, backend_pb2

from ._effort import Effort
from ._figures import Figure, median, percentile
from ._isolation import run_isolated
from ._light import command

SERVERS = {"grpcio": child_command("grpc_core"), "light": command()}


def figures(effort: Effort) -> Iterator[Figure]:
    count = effort.repeats(1000)
    for server in SERVERS:
        took = run_isolated(calls, timeout=60, server=server, count=count)
        yield Figure(
            name=f"warm Health call over the bridge, {server} server, p50",
            measured=median(took),
            unit="ms",
            note=f"p99 {percentile(took, 0.99) * 1e3:.2f} ms, of {count}",
        )


async def calls(*, server: str, count: int) -> list[float]:
    """Seconds of each of *count* calls, one after the other."""
    async with trio_sup.open_supervisor() as sup:
        backend = await sup.start(BackendSpec(name=server, command=SERVERS[server]))
        took = []
        async with sup.channel(backend.key) as channel:
            for _ in range(count):
                began = time.perf_counter()
                await channel.unary_unary(HEALTH, backend_pb2.HealthMessage(), backend_pb2.Reply, timeout=5)
                took.append(time.perf_counter() - began)
        return took
