"""Plugin code runs beside the engine, on a budget: at its end the engine goes on without it, even if it shields."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import attrs
import trio

from ._raised import divided

T = TypeVar("T")

OBEY_TIMEOUT = 0.05
"""Seconds a task gets to end after it was cancelled, before the engine goes on without it."""


@attrs.frozen(kw_only=True)
class SideResult(Generic[T]):
    """How a side task went.

    Attributes:
        finished: Whether it returned or raised by itself, before it was cancelled.
        timed_out: Whether its budget was used up first.
        error: What it raised, also if it did so on being cancelled; or why it could not run.
        value: What it returned, if it finished.
    """

    finished: bool
    timed_out: bool = False
    error: Exception | None = None
    value: T | None = None


@attrs.define(eq=False)
class _Task(Generic[T]):
    name: str
    fn: Callable[[], Awaitable[T]]
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    over: trio.Event = attrs.field(factory=trio.Event)
    returned: bool = False
    error: Exception | None = None
    value: T | None = None

    async def run(self) -> None:
        try:
            with self.scope:
                self.value = await self.fn()
                self.returned = True
        except BaseException as error:
            self.error, others = divided(error, cancelled=trio.current_effective_deadline() == -math.inf)
            if others is not None:
                raise others from None
        finally:
            self.over.set()


class SideTasks:
    """Runs async functions of plugins in a nursery of their own, so that nobody has to wait for one that hangs.

    Args:
        on_stuck: Told the name of a task that did not heed its cancellation.
    """

    def __init__(self, on_stuck: Callable[[str], None] = lambda task: None) -> None:
        self._on_stuck = on_stuck
        self._nursery: trio.Nursery | None = None
        self._left_behind: dict[_Task[Any], None] = {}

    @property
    def stuck(self) -> tuple[str, ...]:
        """Names of the tasks that were left behind and still run."""
        return tuple(task.name for task in self._left_behind)

    @trio.lowlevel.enable_ki_protection
    async def run_host(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be the parent of the side tasks until cancelled; then wait for those that still run."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    async def run(
        self,
        name: str,
        fn: Callable[[], Awaitable[T]],
        *,
        budget: float,
        cancel_when: Callable[[], Awaitable[object]] | None = None,
    ) -> SideResult[T]:
        """Run *fn* in a side task and wait for it at most *budget* seconds, or until *cancel_when* returns.

        Then it is cancelled; if it has not ended `OBEY_TIMEOUT` later, it is left behind and named in `stuck`.
        What *fn* raises is a value of the result; only KeyboardInterrupt ends the host.

        Cancellation: cancels the side task, and does not wait for it.
        """
        task = _Task(name, fn)
        try:
            if self._nursery is None:
                raise RuntimeError("the host of the side tasks does not run")
            self._nursery.start_soon(self._run, task, name=name)
        except RuntimeError as error:
            await trio.lowlevel.checkpoint()
            return SideResult(finished=False, error=error)
        try:
            with trio.move_on_after(budget) as budget_scope:
                await _until(task.over.wait, cancel_when)
            in_time = task.over.is_set()
            timed_out = budget_scope.cancelled_caught and not in_time
            if not in_time:
                task.scope.cancel(reason="its budget is used up" if timed_out else "it is not needed any more")
                with trio.move_on_after(OBEY_TIMEOUT):
                    await task.over.wait()
                if not task.over.is_set():
                    self._on_stuck(name)
        finally:
            if not task.over.is_set():
                task.scope.cancel(reason="nobody waits for it any more")
                self._left_behind[task] = None
        if in_time and not task.returned and task.error is None:
            # It must never look like a success.
            return SideResult(finished=False, error=RuntimeError("it was ended together with its host"))
        value = task.value if in_time else None
        return SideResult(finished=in_time, timed_out=timed_out, error=task.error, value=value)

    @trio.lowlevel.enable_ki_protection
    async def _run(self, task: _Task[Any]) -> None:
        try:
            await task.run()
        finally:
            self._left_behind.pop(task, None)


async def _until(over: Callable[[], Awaitable[object]], cancel_when: Callable[[], Awaitable[object]] | None) -> None:
    """Wait for whichever comes first."""
    if cancel_when is None:
        await over()
        return
    async with trio.open_nursery() as nursery:

        @trio.lowlevel.enable_ki_protection
        async def wait_for(event: Callable[[], Awaitable[object]]) -> None:
            await event()
            nursery.cancel_scope.cancel()

        nursery.start_soon(wait_for, cancel_when)
        await wait_for(over)
