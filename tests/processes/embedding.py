"""A program that embeds trio-sup, for tests that kill it: starts children and says so.

Arguments: names of children in tests/children, each optionally with arguments after `+`. Prints "pid of NAME: N" for
each and their own output, then "all ready", and waits.
"""

from __future__ import annotations

import sys

import trio

import trio_sup
from tests.conftest import child_command
from trio_sup import BackendSpec, Readiness, events
from trio_sup.engine import Output


def say(output: Output) -> None:
    sys.stdout.buffer.write(output.data)
    sys.stdout.flush()


async def main() -> None:
    async with trio_sup.open_supervisor(on_output=say) as sup:
        stream = sup.events()

        async def tell() -> None:
            async for event in stream:
                if isinstance(event, events.BackendStarting):
                    print(f"pid of {event.key}: {event.pid}", flush=True)
                if isinstance(event, events.GuardLost):
                    print(f"guard replaced: {event.replacement}", flush=True)

        async def start(argument: str) -> None:
            name, *options = argument.split("+")
            probe = {"strategy": "exec", "command": ["false"]} if "never" in name else "tcp"
            readiness = Readiness(probe=probe, timeout=60)
            spec = BackendSpec(name=name.replace("_", "-"), command=child_command(name, *options), readiness=readiness)
            await sup.start(spec, model=argument)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell)
            async with trio.open_nursery() as starting:
                for argument in sys.argv[1:]:
                    if "never" in argument:
                        nursery.start_soon(start, argument)
                    else:
                        starting.start_soon(start, argument)
            print("all ready", flush=True)


trio.run(main)
