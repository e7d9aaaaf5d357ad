"""A thread for what blocks, also on a machine that has none to give for a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import trio

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

PAUSE = 0.1
"""Seconds between two tries to start a thread."""


async def in_thread(function: Callable[[*Arguments], T], *arguments: *Arguments, limiter: trio.CapacityLimiter) -> T:
    """What *function* returns, called in a thread; waits as long as the system refuses to start one.

    A backend that forks without end uses up the processes, and so the threads, of its user or control group.

    Cancellation: leaves a call that blocks to its thread, which does not keep the process from exiting.
    """
    called = False

    def call() -> T:
        nonlocal called
        called = True
        return function(*arguments)

    while True:
        try:
            return await trio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=limiter)
        except RuntimeError:
            if called:
                raise
        await trio.sleep(PAUSE)
