"""The install lock between the tasks of one process."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import attrs
import trio


@attrs.define(eq=False)
class _Waiter:
    shared: bool
    granted: trio.Event = attrs.field(factory=trio.Event)


@attrs.define(eq=False)
class _Entry:
    """The lock of one backend. At most one holder is not shared, and then it is the only one."""

    shared_holders: int = 0
    exclusive: bool = False
    waiters: deque[_Waiter] = attrs.field(factory=deque)
    holders: list[str] = attrs.field(factory=list)

    def admits(self, shared: bool) -> bool:
        return not self.exclusive and (shared or self.shared_holders == 0)

    def take(self, shared: bool) -> None:
        self.shared_holders += shared
        self.exclusive = not shared

    def let_go(self, shared: bool) -> None:
        self.shared_holders -= shared
        self.exclusive = False

    def admit_next(self) -> None:
        # Strictly in the order of arrival: a writer holds back the readers behind it, and so is never starved.
        while self.waiters and self.admits(self.waiters[0].shared):
            waiter = self.waiters.popleft()
            self.take(waiter.shared)
            waiter.granted.set()

    def is_unused(self) -> bool:
        return not (self.shared_holders or self.exclusive or self.waiters)


@attrs.frozen(eq=False)
class MemoryLock:
    """Between tasks only: for a supervisor that shares its backends with no other process. First come, first served."""

    _entries: dict[str, _Entry] = attrs.field(factory=dict, init=False, repr=False)

    @asynccontextmanager
    async def hold(self, backend: str, *, shared: bool) -> AsyncIterator[None]:
        """Hold the lock of *backend* for the length of the block.

        Cancellation: a wait that is cancelled gives up its place in the queue.
        """
        await trio.lowlevel.checkpoint()
        name = trio.lowlevel.current_task().name
        entry = self._entries.setdefault(backend, _Entry())
        waiter = _Waiter(shared)
        entry.waiters.append(waiter)
        entry.admit_next()
        try:
            if not waiter.granted.is_set():
                await waiter.granted.wait()
            entry.holders.append(name)
            try:
                yield
            finally:
                entry.holders.remove(name)
        finally:
            if waiter.granted.is_set():
                entry.let_go(shared)
            else:
                entry.waiters.remove(waiter)
            entry.admit_next()
            if entry.is_unused():
                del self._entries[backend]

    def holders(self, backend: str) -> Sequence[str]:
        """The tasks that hold the lock of *backend* now, for messages."""
        entry = self._entries.get(backend)
        return [f"the task {name!r} of this process" for name in entry.holders] if entry is not None else ()
