"""Log files: one task writes for all backends, in batches, in a thread of its own, and never keeps a pump waiting."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import trio

from .._backlog import Backlog, Lost
from .._log_lines import Stream
from .._values import LogSettings, ProcessKey
from ..events import LogFailed
from ._log_file import LogFile, Written
from ._threads import in_thread

BACKLOG_BYTES = 2 * 1024 * 1024
"""Output that may wait to be written; above it, the key that wrote most loses its oldest."""

BATCH_BYTES = 64 * 1024
"""About what is written at once. Small, because Python's threads take turns: the engine waits while lines are made."""

PAUSE = 0.02
"""Seconds from one batch to the next, while there is little to write."""

REST = 3.0
"""How much longer the writer rests than it worked, while there is more to write than it can: the engine goes first."""

CALM = 60.0
"""Seconds for which a failure must have been over, to be told once more when it is back."""

KEPT_FILES = 1000
"""Keys that write no more of which it is still remembered how much is missing in their file."""

LAST_WORDS = 2.0
"""Seconds at the end for what is left to write."""


@attrs.frozen
class _Attempted:
    """What came of writing to a file: something was written, or that failed, or nothing was to be written."""

    key: ProcessKey
    path: Path
    wrote: bool
    why: str | None


class LogFiles:
    """Writes what backends write to a file per key, below *directory*.

    Args:
        on_failure: Told when writing fails: once for each reason, however many files and backends it is about.
    """

    def __init__(self, directory: Path, on_failure: Callable[[LogFailed], None]) -> None:
        self._directory = directory.absolute()
        self._on_failure = on_failure
        self._backlog: Backlog[Written] = Backlog(BACKLOG_BYTES)
        self._files: dict[ProcessKey, LogFile] = {}
        self._failing: dict[ProcessKey, str] = {}
        self._failed_at: dict[str, float] = {}
        self._news = trio.Event()
        self._plenty = trio.Event()
        self._finishing = trio.Event()
        self._finished = trio.Event()
        # Not the program's shared limiter: whoever uses that one up must not silence us, nor we them.
        self._limiter = trio.CapacityLimiter(1)

    def put(
        self, key: ProcessKey, generation: int, stream: Stream, read_at: float, data: bytes, settings: LogSettings
    ) -> None:
        """Queue *data* that was read at *read_at*, in seconds since the epoch; never waits."""
        self._backlog.put(key, Written(key, generation, stream, read_at, data, settings), len(data))
        self._news.set()
        if self._backlog.cost >= BATCH_BYTES:
            self._plenty.set()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Write until `finish` is called and nothing is left.

        Cancellation: leaves a write that blocks to its thread, which does not keep the process from exiting.
        """
        while self._backlog or not self._finishing.is_set():
            self._news = trio.Event()
            if not self._backlog:
                await self._news.wait()
            worked, used = await self._in_thread(self._write, tuple(self._backlog.take(BATCH_BYTES)))
            if self._backlog.cost < BATCH_BYTES:
                await self._pause(PAUSE)
            else:
                await self._rest(REST * used if worked else PAUSE)
        await self._in_thread(self._write_notices)
        self._finished.set()

    async def _pause(self, seconds: float) -> None:
        """Let some more come, so that it is written at once; not for long, if much comes."""
        self._plenty = trio.Event()
        if not self._finishing.is_set():
            with trio.move_on_after(seconds):
                await self._plenty.wait()

    async def _rest(self, seconds: float) -> None:
        """Leave the interpreter to the engine: in a flood, there is always a batch to write."""
        with trio.move_on_after(seconds):
            await self._finishing.wait()

    async def finish(self, timeout: float = LAST_WORDS) -> None:
        """Write what is left, for at most *timeout* seconds."""
        self._finishing.set()
        self._news.set()
        self._plenty.set()
        with trio.move_on_after(timeout):
            await self._finished.wait()
        if not self._finished.is_set():
            why = f"what was left could not be written within {timeout:g} s"
            self._on_failure(LogFailed(path=str(self._directory), why=why))

    # ---- in the thread, which has `_files` to itself while it runs

    def _write(self, batch: Sequence[Written | Lost]) -> list[_Attempted]:
        by_key: dict[ProcessKey, list[Written | Lost]] = {}
        for item in batch:
            key = item.source if isinstance(item, Lost) else item.key
            assert isinstance(key, ProcessKey)
            by_key.setdefault(key, []).append(item)
        # One that writes no more is not told by itself that there is room again.
        ended = next((key for key, file in self._files.items() if file.has_ended() and key not in by_key), None)
        if ended is not None:
            self._files[ended] = self._files.pop(ended)  # behind the others, in case it fails
            by_key[ended] = []
        return [self._attempt(key, items) for key, items in by_key.items()]

    def _write_notices(self) -> list[_Attempted]:
        return [self._attempt(key, ()) for key in tuple(self._files)]

    def _attempt(self, key: ProcessKey, items: Sequence[Written | Lost]) -> _Attempted:
        file = self._files.get(key) or self._files.setdefault(key, LogFile(self._directory, key))
        wrote, why = False, None
        try:
            wrote = file.write(items) if items else file.write_notice()
        except OSError as error:
            why = error.strerror or str(error)
        if file.is_idle():
            del self._files[key]
        elif len(self._files) > KEPT_FILES:
            ended = next((key for key, file in self._files.items() if file.has_ended()), None)
            if ended is not None:
                del self._files[ended]
        return _Attempted(key, file.path, wrote, why)

    # ---- what failed

    async def _in_thread(self, function: Callable[..., list[_Attempted]], *arguments: object) -> tuple[bool, float]:
        """Note what comes of ``function(*arguments)``.

        Returns:
            Whether anything of it did not fail, and how many seconds of processor time it took.
        """

        def timed() -> tuple[list[_Attempted], float]:
            began = time.thread_time()
            return function(*arguments), time.thread_time() - began

        results, used = await in_thread(timed, limiter=self._limiter)
        for attempted in results:
            self._note(attempted, trio.current_time())
        return any(attempted.why is None for attempted in results), used

    def _note(self, attempted: _Attempted, now: float) -> None:
        key, why = attempted.key, attempted.why
        if attempted.wrote:
            self._failing.pop(key, None)
        if why is None:
            return
        # Of a file that was given up nobody knows whether it would fail still.
        self._failing = {other: why for other, why in self._failing.items() if other in self._files or other == key}
        is_known = why in self._failing.values() or now - self._failed_at.get(why, -math.inf) < CALM
        self._failing[key] = why
        self._failed_at[why] = now
        if not is_known:
            self._on_failure(LogFailed(path=str(attempted.path), why=why))
