"""The last exit reports of each key: in memory, and in the state directory if there is one."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import trio

from .. import _exit_files
from .._reports import ExitReport
from .._values import ProcessKey
from ._threads import in_thread

FLUSH_TIMEOUT = 2.0
"""Seconds at the end for reports that are not written yet; a disk that hangs must not keep the supervisor."""

_RETRY = 30.0
"""Seconds after which a disk that was full is tried again, if no report comes before."""

_BATCH = 50
"""Keys that are written in one go."""


class ReportMemory:
    """Keeps reports, and writes them in a thread: neither a slow disk nor a full one delays anything.

    Args:
        on_failure: Told of each file that could not be written; its reports stay in memory, and are tried again.
        on_success: Told when something could be written.
    """

    def __init__(self, on_failure: Callable[[Path, OSError], None], on_success: Callable[[], None]) -> None:
        self._on_failure = on_failure
        self._on_success = on_success
        self._reports: dict[ProcessKey, deque[ExitReport]] = {}
        self._unwritten: dict[ProcessKey, None] = {}  # in order, and each key once, however often it ends
        self._news = trio.Event()
        self._progress = trio.Event()
        self._writing = False
        self._finishing = False
        self._given_up = False
        # Not the program's shared limiter: whoever uses that one up must not keep reports from being written.
        self._limiter = trio.CapacityLimiter(1)

    def of(self, key: ProcessKey) -> tuple[ExitReport, ...]:
        """The last reports of *key*, oldest first."""
        return tuple(self._reports.get(key, ()))

    def recall(self, reports: Mapping[ProcessKey, Iterable[ExitReport]]) -> None:
        """Take in what was written in earlier runs."""
        for key, earlier in reports.items():
            self._reports[key] = deque(earlier, maxlen=_exit_files.KEPT_REPORTS)

    def keep(self, report: ExitReport) -> None:
        """Remember *report*; never waits, never raises."""
        self._reports.setdefault(report.key, deque(maxlen=_exit_files.KEPT_REPORTS)).append(report)
        self._unwritten[report.key] = None
        self._news.set()

    async def write_to(self, directory: Path) -> None:
        """Write whatever is new to *directory*, until cancelled.

        Cancellation: leaves a write that hangs to its thread, which does not keep the process from exiting.
        """
        while True:
            if not self._unwritten:
                await self._news.wait()
            self._news = trio.Event()
            last_try = self._finishing
            keys = [key for key, _ in zip(self._unwritten, range(_BATCH), strict=False)]
            batch = [(key, self.of(key)) for key in keys]
            for key in keys:
                del self._unwritten[key]
            self._writing = True
            errors = await in_thread(_write, directory, batch, limiter=self._limiter)
            self._writing = False
            for key, (path, error) in errors.items():
                self._unwritten[key] = None
                self._on_failure(path, error)
            if len(errors) < len(batch):
                self._on_success()
            self._given_up = bool(errors) and last_try
            self._progress.set()
            self._progress = trio.Event()
            if errors:
                with trio.move_on_after(_RETRY):
                    await self._news.wait()

    async def written(self) -> bool:
        """Wait until everything is written, or was tried once more in vain, for at most `FLUSH_TIMEOUT`.

        Needs `write_to` to run.

        Returns:
            Whether it is written.
        """
        self._finishing = True
        self._news.set()
        with trio.move_on_after(FLUSH_TIMEOUT):
            while (self._unwritten or self._writing) and not self._given_up:
                await self._progress.wait()
        return not (self._unwritten or self._writing)


def _write(
    directory: Path, batch: Iterable[tuple[ProcessKey, tuple[ExitReport, ...]]]
) -> dict[ProcessKey, tuple[Path, OSError]]:
    errors = {}
    for key, reports in batch:
        try:
            try:
                _exit_files.write(directory, key, reports)
            except FileNotFoundError:
                # Somebody has tidied up below us.
                with contextlib.suppress(FileExistsError):
                    directory.mkdir(mode=0o700)
                _exit_files.write(directory, key, reports)
        except OSError as error:
            errors[key] = directory / _exit_files.name_of(key), error
    return errors
