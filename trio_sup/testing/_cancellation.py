"""Cancel an operation at every step that any task takes for it, one after the other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import trio


class _CancelAtStep(trio.abc.Instrument):
    def __init__(self, step: int, scope: trio.CancelScope) -> None:
        self.steps = 0
        self._step = step
        self._scope = scope

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += 1
        if self.steps == self._step:
            self._scope.cancel()


@contextmanager
def _telling(step: int) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        error.add_note(f"when it was cancelled at step {step}")
        raise


async def cancel_at_every_step(
    operation: Callable[[], Awaitable[object]],
    check: Callable[[], Awaitable[object]],
    *,
    stride: int = 1,
) -> int:
    """Run *operation* again and again, cancelled at task step 1, 2, … until it gets through; *check* after each run.

    Steps of all tasks count, so the cancellation also meets what other tasks do for the operation.

    Args:
        stride: How many steps later each next cancellation comes; more than 1 where every run is slow.

    Returns:
        How many steps the operation has.

    Raises:
        ValueError: *stride* is less than 1.
        Exception: What the operation or the check raises, with a note that names the step.
    """
    if stride < 1:
        raise ValueError(f"stride: expected at least 1 (got {stride!r})")
    step = 1
    while True:
        with _telling(step):
            with trio.CancelScope() as scope:
                instrument = _CancelAtStep(step, scope)
                trio.lowlevel.add_instrument(instrument)
                try:
                    await operation()
                finally:
                    trio.lowlevel.remove_instrument(instrument)
            await check()
        if instrument.steps < step:
            return instrument.steps
        step += stride
