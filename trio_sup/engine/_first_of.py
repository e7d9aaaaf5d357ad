"""Waiting for whichever comes first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio


async def first_of(*waits: Callable[[], Awaitable[object]]) -> None:
    """Return as soon as one of *waits* does, and cancel the others."""
    async with trio.open_nursery() as nursery:

        @trio.lowlevel.enable_ki_protection
        async def wait(fn: Callable[[], Awaitable[object]]) -> None:
            await fn()
            nursery.cancel_scope.cancel()

        for fn in waits:
            nursery.start_soon(wait, fn)
