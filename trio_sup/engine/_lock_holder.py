"""Holding an install lock without depending on its plugin: the lock lives in a side task."""

from __future__ import annotations

import math

import trio

from ..strategies import InstallLock
from ._side_tasks import SideTasks


class LockHolder:
    """Holds the install lock of *backend*, shared, from `acquired` to `let_go`.

    A lock that hangs, raises or shields delays nobody but the attempt that waits for it, and not the end of that one.
    """

    def __init__(self, side: SideTasks, lock: InstallLock, backend: str) -> None:
        self._side = side
        self._lock = lock
        self._backend = backend
        self._over = trio.Event()
        self._held = False
        self._settled = trio.Event()
        self.error: Exception | None = None

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Host the lock until `let_go`; to be run beside the one who waits in `acquired`.

        Cancellation: gives the lock up; does not wait for it.
        """
        result = await self._side.run(f"install lock of {self._backend}", self._hold, budget=math.inf)
        self.error = result.error
        self._settled.set()

    async def _hold(self) -> None:
        async with self._lock.hold(self._backend, shared=True):
            self._held = True
            self._settled.set()
            await self._over.wait()

    async def acquired(self) -> bool:
        """Wait for the lock; false if it failed instead, see `error`."""
        await self._settled.wait()
        return self._held

    def let_go(self) -> None:
        """Release it; the plugin does so in its own time."""
        self._over.set()
