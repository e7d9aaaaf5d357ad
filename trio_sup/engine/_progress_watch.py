"""Looking whether a backend makes headway: it moves the readiness deadline, and excuses failed liveness checks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from .._progress import Progress
from ._slot import Attempt

MAX_STEP = 1.0
"""Seconds between two looks, at the most."""


@asynccontextmanager
async def extended_by_progress(attempt: Attempt, ready_scope: trio.CancelScope) -> AsyncIterator[None]:
    """For the length of the block, let signs of progress move the deadline of *ready_scope*, up to the hard limit."""
    if not attempt.spec.readiness.progress:
        yield
        return
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_extend, attempt, ready_scope, name=f"progress of {attempt.key}")
        yield
        nursery.cancel_scope.cancel(reason="the start is over")


@trio.lowlevel.enable_ki_protection
async def _extend(attempt: Attempt, ready_scope: trio.CancelScope) -> None:
    readiness = attempt.spec.readiness
    assert attempt.launched_at is not None
    hard_deadline = attempt.launched_at + readiness.hard_timeout
    progress = await _first_look(attempt)
    while True:
        await trio.sleep(min(MAX_STEP, readiness.timeout / 4))
        if await _signs(progress, attempt) & readiness.progress:
            ready_scope.deadline = min(trio.current_time() + readiness.timeout, hard_deadline)


async def is_at_work(attempt: Attempt, window: float) -> bool:
    """Watch the tree of *attempt* for *window* seconds: does it compute, read, write output or grow?"""
    progress = await _first_look(attempt)
    await trio.sleep(window)
    return bool(await _signs(progress, attempt))


async def _first_look(attempt: Attempt) -> Progress:
    assert attempt.child is not None
    usage = await attempt.child.usage()
    return Progress(trio.current_time(), usage, attempt.output_bytes)


async def _signs(progress: Progress, attempt: Attempt) -> frozenset[str]:
    assert attempt.child is not None
    usage = await attempt.child.usage()
    return progress.look(trio.current_time(), usage, attempt.output_bytes)
