"""How far an installation has come: from what a source reports, from any thread, to what people are told."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import attrs
import trio

from .._releases import InstallPhase, InstallProgress, OnProgress

LEAST_PAUSE = 0.1
"""Seconds between two reports of one phase."""
RATE_OVER = 5.0
"""Seconds over which the rate is taken."""


@attrs.define(eq=False)
class Rate:
    """Bytes per second over the last *window* seconds; 0 while that is not known."""

    window: float = RATE_OVER
    _samples: deque[tuple[float, int]] = attrs.field(factory=deque, init=False)

    def add(self, now: float, done: int) -> float:
        """Take note that *done* bytes are done, and return the rate."""
        if self._samples and done < self._samples[-1][1]:
            self._samples.clear()  # it was begun anew
        self._samples.append((now, done))
        while len(self._samples) > 2 and self._samples[1][0] <= now - self.window:
            self._samples.popleft()
        (begin, first), (end, last) = self._samples[0], self._samples[-1]
        return (last - first) / (end - begin) if end > begin else 0.0


class Meter:
    """Tells *told*, in Trio's thread: every change of phase, and within a phase about ten times per second.

    Args:
        backend: What is installed.
        told: Not called again once it has raised; then *failed* is called with what it raised.
        now: A clock in seconds.
    """

    def __init__(
        self,
        backend: str,
        told: OnProgress,
        *,
        failed: Callable[[Exception], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._told: OnProgress | None = told
        self._failed = failed
        self._now = now
        self._trio = trio.lowlevel.current_trio_token()
        self._lock = threading.Lock()
        self._waiting: deque[InstallProgress] = deque()
        self._phase: InstallPhase | None = None
        self._rate = Rate()
        self._last_at = 0.0

    def tell(
        self, phase: InstallPhase, done: int = 0, total: int | None = None, detail: str = "", *, always: bool = True
    ) -> None:
        """Tell this now; to be called from Trio's thread.

        Args:
            always: False if it may be left out, should the last report have been made just before.
        """
        self._note(phase, done, total, detail, always=always)
        self._flush()

    def report(self, phase: InstallPhase, done: int, total: int | None) -> None:
        """What `Fetch.report` is: from any thread, as often as one likes."""
        if self._note(phase, done, total, "", always=False):
            with suppress(trio.RunFinishedError):  # a thread that nobody waits for any more
                self._trio.run_sync_soon(self._flush, idempotent=True)

    def close(self) -> None:
        """Tell nothing more, whoever still reports."""
        self._flush()
        self._told = None

    def _note(self, phase: InstallPhase, done: int, total: int | None, detail: str, *, always: bool) -> bool:
        with self._lock:
            now = self._now()
            if phase is not self._phase:
                self._phase, self._rate, always = phase, Rate(), True
            rate = self._rate.add(now, done)
            # The end of a phase must be seen, however soon it comes.
            if not always and done != total and now - self._last_at < LEAST_PAUSE:
                return False
            self._last_at = now
            self._waiting.append(
                InstallProgress(
                    backend=self._backend, phase=phase, done_bytes=done, total_bytes=total, rate=rate, detail=detail
                )
            )
            return True

    def _flush(self) -> None:
        while self._told is not None:
            with self._lock:
                if not self._waiting:
                    return
                progress = self._waiting.popleft()
            try:
                self._told(progress)
            except Exception as error:
                self._told = None
                self._failed(error)
