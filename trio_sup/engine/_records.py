"""What a supervisor remembers: how attempts ended, and which trees it has; over its own end, if it has a directory."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import attrs
import trio

from .. import _exit_files, events
from .._reports import ExitReport
from .._values import ProcessKey
from ..errors import ConfigError, StateDirectoryInUse
from ._event_stream import EventHub
from ._leftovers import Remains, end_leftovers
from ._report_memory import ReportMemory
from ._tree_ledger import Record, TreeLedger, boot_id, records_in

_log = logging.getLogger("trio_sup.state")


@attrs.define
class _Opened:
    """What a state directory had for us."""

    remains: Remains
    found: _exit_files.Found
    problems: list[str]
    trouble: tuple[Path, OSError] | None


class Records:
    """Without a state directory everything is kept in memory only.

    Attributes:
        trees: To be told of every tree as it comes and goes.
    """

    def __init__(self, state_dir: Path | None, hub: EventHub) -> None:
        self._state_dir = state_dir.absolute() if state_dir is not None else None
        self._hub = hub
        self._failed = False
        self._reports = ReportMemory(self._cannot_write, self._can_write)
        self.trees = TreeLedger(self._cannot_write)

    def keep(self, report: ExitReport) -> None:
        """Remember how an attempt ended; never waits, never raises."""
        self._reports.keep(report)

    def reports_of(self, key: ProcessKey) -> tuple[ExitReport, ...]:
        """How the last attempts of *key* ended, oldest first, those of earlier runs included."""
        return self._reports.of(key)

    async def open(self) -> None:
        """Take the state directory, end what an earlier supervisor has left behind, and recall the reports.

        Raises:
            StateDirectoryInUse: Another supervisor works there; nothing was changed.
            ConfigError: It cannot be made or used.

        Cancellation: is heeded before and after, and not meanwhile, which takes at most about 5 s.
        """
        await trio.lowlevel.checkpoint()
        if self._state_dir is None:
            return
        opened = await trio.to_thread.run_sync(self._open, self._state_dir, limiter=trio.CapacityLimiter(1))
        for problem in (*opened.problems, *opened.found.problems):
            _log.warning("%s", problem)
        self._reports.recall(opened.found.reports)
        remains = opened.remains
        if remains.ended or remains.survivors:
            self._hub.publish_early(events.LeftoversEnded(ended=remains.ended, survivors=remains.survivors))
        if opened.trouble is not None:
            self._cannot_write(*opened.trouble)

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Write reports down for the length of the block, and at its end what is left, within a bound.

        Call it right after `open`, with no await between: at the end of the block the directory is let go.
        """
        try:
            if self._state_dir is None:
                yield
                return
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._reports.write_to, _exit_files.exits_in(self._state_dir), name="exit reports")
                try:
                    yield
                finally:
                    with trio.CancelScope(shield=True):
                        written = await self._reports.written()
                    if not written:
                        _log.warning("the last exit reports could not be written to %s", self._state_dir)
                    nursery.cancel_scope.cancel(reason="the supervisor has ended")
        finally:
            self.trees.close()

    # ---- in a thread

    def _open(self, state_dir: Path) -> _Opened:
        exits, trees = _exit_files.exits_in(state_dir), state_dir / "trees"
        problems: list[str] = []
        trouble = None
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            for directory in (exits, trees):
                directory.mkdir(mode=0o700, exist_ok=True)
            with _only_one_opens(state_dir, trees):
                remains = self._take_over(state_dir, trees, problems)
                _exit_files.remove_unfinished(exits)
                try:
                    self.trees.open(trees)
                except OSError as error:
                    # A full disk is no reason not to serve; what follows will not be swept if we are killed.
                    trouble = trees, error
        except OSError as error:
            raise ConfigError(str(state_dir), [f"cannot be used as state directory: {error.strerror}"]) from error
        return _Opened(remains, _exit_files.read_all(exits), problems, trouble)

    def _take_over(self, state_dir: Path, trees: Path, problems: list[str]) -> Remains:
        """End what is left of the supervisors that have ended, and take their files away."""

        def left_out(path: Path, why: str) -> None:
            problems.append(f"{path} is left out: {why}")

        boot, namespace = boot_id(), os.stat("/proc/self/ns/pid").st_ino
        ended: list[Record] = []
        for record in records_in(trees, left_out):
            if record.in_use(here=record.is_of(boot, namespace)):
                raise StateDirectoryInUse(str(state_dir), record.supervisor.pid)
            ended.append(record)
        # Nothing of an earlier boot is left, and every number of then means something else now.
        remains = end_leftovers([one for one in ended if one.supervisor.boot_id == boot], namespace=namespace)
        for record in ended:
            if not remains.survivors or record.supervisor.boot_id != boot:
                record.path.unlink(missing_ok=True)
        return remains

    # ---- trouble

    def _cannot_write(self, path: Path, error: OSError) -> None:
        if not self._failed:
            self._failed = True
            self._hub.publish_early(events.StateNotWritten(path=str(path), why=error.strerror or str(error)))

    def _can_write(self) -> None:
        self._failed = False


@contextmanager
def _only_one_opens(state_dir: Path, directory: Path) -> Iterator[None]:
    """Two that open at the same instant must not both find the directory free."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateDirectoryInUse(str(state_dir), None) from None
        except OSError as error:
            _log.debug("%s cannot be locked: %s", directory, error)
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a fork of the host, made meanwhile, would keep it
        os.close(descriptor)
