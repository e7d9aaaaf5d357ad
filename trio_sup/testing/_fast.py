"""The virtual clock, as one call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import outcome
import trio
from trio.testing import MockClock

T = TypeVar("T")

LONGEST = 100 * 365 * 86400.0
"""Virtual seconds; what takes longer waits for something that never comes."""


def run_fast(async_fn: Callable[..., Awaitable[T]], *args: object) -> T:
    """Run ``async_fn(*args)`` in Trio with a virtual clock: it starts at 0 and leaps to the next deadline whenever
    every task waits.

    For the engine on imagined processes. Never use it with real processes, sockets or threads: while Trio waits for
    the kernel, the clock leaps, grace periods included.

        def test_a_crash_after_an_hour_is_told():
            async def an_hour():
                system = FakeSystem(FakeBackend(exits_after=3600))
                async with open_supervisor(system=system, install_lock="memory") as sup:
                    events = sup.events()
                    await sup.start(BackendSpec(name="chat", command=["sh"]))
                    async for event in events:
                        if isinstance(event, BackendGone):
                            return event.report.lived

            assert run_fast(an_hour) == pytest.approx(3600)

    Returns:
        What *async_fn* returned.

    Raises:
        trio.TooSlowError: A century of virtual time has passed: it waits for something that never happens. That is
            raised inside what shields itself, too, which would hang for ever otherwise.
    """

    async def bounded() -> T:
        trio.lowlevel.spawn_system_task(_end_what_shields, trio.lowlevel.current_task())
        with trio.fail_after(LONGEST):
            return await async_fn(*args)

    return trio.run(bounded, clock=MockClock(autojump_threshold=0))


async def _end_what_shields(root: trio.lowlevel.Task) -> None:
    await trio.sleep(LONGEST + 1)
    for task in tuple(_leaves(root)):
        why = f"{task.name} waits in a shield for something that never happens"
        trio.lowlevel.reschedule(task, outcome.Error(trio.TooSlowError(why)))


def _leaves(task: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
    children = [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    for child in children:
        yield from _leaves(child)
    if not children:
        yield task
