"""Waiting for listeners: one task asks the kernel which ports listen, whoever waits and however many."""

from __future__ import annotations

import trio

from ._sockets import SocketTable

_INTERVAL = 0.004
"""Seconds between two looks while anybody waits: it bounds how late a listener is noticed."""


class ListenerWatch:
    """Tells when something listens on a port, without ever connecting to one.

    Args:
        table: Where to look. If it fails, /proc is read from then on; if that fails too, nobody is kept waiting.
    """

    def __init__(self, table: SocketTable) -> None:
        self._table = table
        self._waiters: dict[trio.Event, int] = {}
        self._wanted = trio.Event()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Look as long as anybody waits, sleep otherwise. Run it in one task; ends only by cancellation."""
        while True:
            if not self._waiters:
                self._wanted = trio.Event()
                await self._wanted.wait()
            began = trio.current_time()
            listening = self._listening_ports()
            for event, port in self._waiters.items():
                if listening is None or port in listening:
                    event.set()
            # A machine full of listeners makes each look dear: never spend more than a tenth of the time on it.
            await trio.sleep(max(_INTERVAL, 9 * (trio.current_time() - began)))

    async def wait_for(self, port: int) -> None:
        """Wait until something listens on *port*, or the kernel does not tell; looks are shared with all who wait.

        Cancellation: leaves nothing behind.
        """
        event = trio.Event()
        self._waiters[event] = port
        self._wanted.set()
        try:
            await event.wait()
        finally:
            del self._waiters[event]

    def _listening_ports(self) -> set[int] | None:
        try:
            return self._table.listening_ports()
        except Exception:
            self._table = SocketTable(netlink=False)
        try:
            return self._table.listening_ports()
        except Exception:
            return None
