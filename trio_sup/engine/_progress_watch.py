"""Looking whether a backend makes headway: it moves the readiness deadline, and excuses failed liveness checks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from .._progress import Progress
from ._slot import Attempt

MAX_STEP = 1.0
"""Seconds between two looks at a start, at the most."""

WORK_WINDOW = 1.0
"""Seconds for which a process whose check failed is watched, to see whether it is at work. A shorter time, on a busy
machine, would show too little of one that is."""


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


class WorkWatch:
    """Tells whether the tree of *attempt* is at work: it computes, reads, writes output or grows."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._progress: Progress | None = None
        self._looked_at = 0.0

    async def is_at_work(self) -> bool:
        """Whether it was at work since it was asked last, for `WORK_WINDOW` at least."""
        if self._progress is None:
            self._progress = await _first_look(self._attempt)
            self._looked_at = trio.current_time()
        await trio.sleep_until(self._looked_at + WORK_WINDOW)
        self._looked_at = trio.current_time()
        return bool(await _signs(self._progress, self._attempt))

    def forget(self) -> None:
        """What was seen so far does not count any more."""
        self._progress = None


async def _first_look(attempt: Attempt) -> Progress:
    assert attempt.child is not None
    usage = await attempt.child.usage()
    return Progress(trio.current_time(), usage, attempt.output_bytes)


async def _signs(progress: Progress, attempt: Attempt) -> frozenset[str]:
    assert attempt.child is not None
    usage = await attempt.child.usage()
    return progress.look(trio.current_time(), usage, attempt.output_bytes)
