"""A program that embeds trio-sup and calls its backends as fast as it can, for tests that interrupt it."""

from __future__ import annotations

from functools import partial

import trio

import trio_sup
from tests.conftest import child_command
from trio_sup.protocol import backend_pb2

SPEC = trio_sup.BackendSpec(name="store", command=child_command("raw_h2"), grace=3)


async def main() -> None:
    async with trio_sup.open_supervisor() as sup, trio.open_nursery() as calling:

        async def call(replica: int) -> None:
            async with sup.channel(f"store#{replica}") as channel:
                while True:
                    await channel.unary_unary(
                        "/backend.Backend/Health", backend_pb2.HealthMessage(), backend_pb2.Reply, timeout=5
                    )

        async with trio.open_nursery() as starting:
            for replica in range(4):
                starting.start_soon(partial(sup.start, SPEC, replica=replica))
        for replica in range(4):
            calling.start_soon(call, replica)
        print("all ready", flush=True)


trio.run(main)
