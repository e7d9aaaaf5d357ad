"""One real process with everything that descends from it: watched, read, signalled, ended and reaped."""

from __future__ import annotations

import array
import fcntl
import os
import select
import signal
import subprocess
import termios
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

import trio

from .._progress import Usage
from .._reports import ExitStatus, Survivor
from . import _tree
from ._oom import Before
from ._output import Stream
from ._system import TreeEnding
from ._tree_usage import exact_usage_of, usage_of

if TYPE_CHECKING:
    from ._linux_system import LinuxSystem

CHUNK = 64 * 1024
"""Bytes of output read at once."""


class LinuxChild:
    """A process that this supervisor launched; its leader stays unreaped until `close`.

    While the leader is unreaped its pid cannot be reused, and with it the numbers of its group and its session.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        environment: dict[str, str],
        tree: _tree.Tree,
        system: LinuxSystem,
        before: Before,
    ) -> None:
        self.pid = process.pid
        self.environment = environment
        self.tree = tree
        self.proven_sockets: set[int] = set()
        self._process = process
        self._system = system
        self._before = before
        self._killed_by_us = False
        self._killed_by_somebody = False
        self._out_of_memory: str | None = None
        self._survivors: tuple[Survivor, ...] = ()
        assert process.stdout is not None
        assert process.stderr is not None
        self._pipes = {"stdout": process.stdout, "stderr": process.stderr}
        for pipe in self._pipes.values():
            os.set_blocking(pipe.fileno(), False)
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError:
            tree.kill_group()
            system.forget(self.pid)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1)  # at once, unless it may not be signalled
            self._close_pipes()
            raise

    def has_ended(self) -> bool:
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(0))

    async def wait(self) -> ExitStatus:
        await trio.lowlevel.wait_readable(self._pidfd)
        try:
            info = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        except ChildProcessError:
            return ExitStatus()  # somebody else in this program collected it
        if info is None:
            return ExitStatus()
        if info.si_code == os.CLD_EXITED:
            return ExitStatus(code=info.si_status)
        self._killed_by_somebody = info.si_status == signal.SIGKILL and not self._killed_by_us
        return ExitStatus(signal=info.si_status)

    def out_of_memory(self) -> str | None:
        if self._killed_by_somebody:
            self._killed_by_somebody = False  # what is there to be found is found once
            self._out_of_memory = self._system.oom.evidence(self.pid, self._before)
        return self._out_of_memory

    async def pump(self, stream: Stream, take: Callable[[bytes], None]) -> None:
        fd = self._pipes[stream].fileno()
        try:
            while True:
                try:
                    async with self._system.pump_turns:  # comes once around the loop at the earliest
                        data = os.read(fd, CHUNK)
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(fd)
                    continue
                if not data:
                    return  # every process that could write has closed it, and none can open it again
                take(data)
        except trio.Cancelled:
            self._read_what_is_there(fd, take)
            raise

    def _read_what_is_there(self, fd: int, take: Callable[[bytes], None]) -> None:
        """Whoever still writes, being no part of the tree, is not waited for."""
        size = array.array("i", [0])
        fcntl.ioctl(fd, termios.FIONREAD, size)
        while size[0] > 0 and (data := os.read(fd, min(size[0], CHUNK))):
            take(data)
            size[0] -= len(data)

    def signal(self, number: signal.Signals, to: Literal["leader", "group"]) -> None:
        self._killed_by_us = self._killed_by_us or number == signal.SIGKILL
        try:
            if to == "leader":
                signal.pidfd_send_signal(self._pidfd, number)
                signal.pidfd_send_signal(self._pidfd, signal.SIGCONT)
            else:
                os.killpg(self.pid, number)
                # One that was stopped could not act on the polite signal.
                os.killpg(self.pid, signal.SIGCONT)
        except (ProcessLookupError, PermissionError):
            pass  # what is still there meets SIGKILL, and is named if that fails too

    def tree_pids(self) -> list[int]:
        return [process.pid for process in self.tree.members(_tree.ProcessTable())]

    async def remember(self) -> None:
        with suppress(OSError):  # no descriptors to look with
            self.tree.remember(await self._system.scan.fresh())

    async def usage(self, *, exact_memory: bool = False) -> Usage | None:
        try:
            pids = [process.pid for process in self.tree.members(await self._system.scan.fresh())]
            if exact_memory:
                return await exact_usage_of(pids, self._system.measuring)
            return usage_of(pids, exact_memory=False)
        except OSError:
            return None  # no descriptors to look with

    async def end_tree(self, timeout: float) -> TreeEnding:
        self._killed_by_us = self._killed_by_us or not self.has_ended()
        left = 0
        try:
            table = await self._system.scan.fresh()
            members = self.tree.remember(table)
            if not members and not table.unsettled(since=self.tree.started):
                self._survivors = ()
                return TreeEnding()
            left = sum(process.pid != self.pid for process in members)
        except OSError:
            pass  # no descriptors to look with: the engine's SIGKILL needs none
        self._survivors = await _tree.end_tree(self.tree, self._system.scan, timeout=timeout)
        return TreeEnding(self._survivors, left)

    async def survivors_ended(self) -> None:
        await _tree.tree_gone(self.tree, self._system.scan)

    def close(self) -> None:
        self._system.forget(self.pid)
        self._close_pipes()
        ended = self.has_ended()
        os.close(self._pidfd)
        if ended:
            self._process.wait()
        else:
            self._process.returncode = -signal.SIGKILL  # it cannot be reaped; without this Popen warns for ever

    def _close_pipes(self) -> None:
        for pipe in self._pipes.values():
            pipe.close()
