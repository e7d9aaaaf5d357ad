"""One writer per standard stream, in a thread of its own: a blocked terminal or pipe delays nothing else."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable

import trio

from .._backlog import Backlog, Lost
from .._values import ProcessKey
from ..engine._threads import in_thread
from ._lines import EndOf, Renderer, Shown

OWN = "trio-sup"
"""The source of our own lines."""

BACKLOG_BYTES = 4 * 1024 * 1024
# Small, because Python's threads take turns: lines are made in one go, and the supervisor waits for its turn.
_BATCH_BYTES = 32 * 1024
_MAY_RECOVER = frozenset({errno.ENOSPC, errno.EDQUOT})


class Writer:
    """Writes to one file descriptor what is put into it, in order, as fast as the other side reads.

    Args:
        descriptor: Where to.
        renderer: Turns items into bytes; called in the writer's thread.
        on_failure: Told once, with the reason, when the stream cannot be written to (any more).
        limit: Bytes that may wait; see [`Backlog`][trio_sup._backlog.Backlog] for what happens above it.
    """

    def __init__(
        self,
        descriptor: int,
        renderer: Renderer,
        on_failure: Callable[[str], None],
        *,
        limit: int = BACKLOG_BYTES,
    ) -> None:
        self._descriptor = descriptor
        self._renderer = renderer
        self._on_failure = on_failure
        self._backlog: Backlog[Shown] = Backlog(limit)
        self._news = trio.Event()
        self._finishing = False
        self._finished = trio.Event()
        self._failed = False
        self._closed = False
        # Not the program's shared limiter: whoever uses that one up must not silence us, nor we them.
        self._limiter = trio.CapacityLimiter(1)

    def put(self, source: ProcessKey | str, item: Shown, size: int) -> None:
        """Queue *item*; never waits."""
        if not self._closed:
            self._backlog.put(source, item, size)
            self._news.set()

    async def run(self) -> None:
        """Write until `finish` is called and nothing is left.

        Cancellation: leaves a write that blocks to its thread, which does not keep the process from exiting.
        """
        while not self._finishing or self._backlog:
            self._news = trio.Event()
            if not self._backlog:
                await self._news.wait()
            batch = tuple(self._backlog.take(_BATCH_BYTES))
            try:
                await in_thread(self._write, batch, limiter=self._limiter)
            except OSError as error:
                self._closed = error.errno not in _MAY_RECOVER
                if self._closed:
                    self._backlog = Backlog(0)
                if not self._failed:
                    self._failed = True
                    self._on_failure(os.strerror(error.errno or 0))
        self._finished.set()

    async def finish(self, timeout: float) -> bool:
        """Write what is left, unfinished lines included; tells whether that was done within *timeout* seconds."""
        self.put(OWN, EndOf(), 0)
        self._finishing = True
        self._news.set()
        with trio.move_on_after(timeout):
            await self._finished.wait()
        return self._finished.is_set()

    def _write(self, batch: tuple[Shown | Lost, ...]) -> None:
        pieces = [piece for item in batch for piece in self._renderer.render(item)]
        rest = memoryview(b"".join(pieces))
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                # Somebody who shares the terminal or pipe has made it non-blocking.
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()
