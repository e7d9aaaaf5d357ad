"""A program that embeds a supervisor: ``embedded.py JSON`` starts backends, then ends them as it is told to.

JSON: ``{"backends": [command, …], "then": "wait" | "stop" | "force" | "leave", "grace": seconds}``.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import trio

import trio_sup
from tests.promises.fire import telling

READINESS = trio_sup.Readiness(probe="tcp", timeout=60)


async def main(plan: dict[str, Any]) -> None:
    async with trio_sup.open_supervisor(plugins=[telling]) as sup:
        async with trio.open_nursery() as nursery:
            for number, command in enumerate(plan["backends"]):
                spec = trio_sup.BackendSpec(
                    name=f"b{number}", command=command, readiness=READINESS, grace=plan["grace"]
                )
                nursery.start_soon(sup.start, spec)
        match plan["then"]:
            case "wait":
                await trio.sleep_forever()
            case "stop":
                await sup.stop_all()
            case "force":
                await sup.stop_all(force=True)


trio.run(main, json.loads(sys.argv[1]))
