"""The supervisor's side of its guard: the process that ends all trees if the supervisor ends before them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import attrs
import trio

from ..errors import TrioSupError

HELPER = Path(__file__).parent.parent / "guard" / "_helper.py"
READY_TIMEOUT = 10.0
LEAVE_TIMEOUT = 2.0
# Seconds before a guard that ended is replaced again; the wait is forgotten once one has lived for STEADY seconds.
FIRST_DELAY = 0.1
MAX_DELAY = 30.0
STEADY = 10.0


@attrs.define(slots=False, eq=False)
class GuardFailed(TrioSupError):
    """The guard process could not be started: nothing would end the backends if the supervisor were killed."""

    why: str

    def __str__(self) -> str:
        return f"the guard process could not be started: {self.why}"


class Guard:
    """Keeps a guard process in place for as long as the supervisor lives, and tells it which trees there are.

    Args:
        supervisor_id: As it stands in the marker of this supervisor's trees.
        parent_pid: The guard that is already there as our parent (see `run_guarded`); None to start a helper.
        on_lost: Told the pid of a guard that ended and the pid of its replacement; None in its place if none could be
            started yet, in which case it is told again once one has been.
    """

    def __init__(self, supervisor_id: str, parent_pid: int | None, on_lost: Callable[[int, int | None], None]) -> None:
        self._supervisor_id = supervisor_id
        self._on_lost = on_lost
        self._trees: dict[int, int] = {}
        self._members: dict[int, set[tuple[int, int]]] = {}
        self._helper: _Helper | None = None
        self._parent_pid = parent_pid

    @property
    def pid(self) -> int | None:
        """Pid of the guard; None while there is none."""
        return self._helper.process.pid if self._helper else self._parent_pid

    def register(self, pid: int, started: int) -> None:
        """Tell of a tree: its leader's pid and start time in clock ticks. Never waits, never raises."""
        self._trees[pid] = started
        if self._helper:
            self._helper.send(_registration(pid, started))

    def note_members(self, pid: int, members: Iterable[tuple[int, int]]) -> None:
        """Tell of processes, by pid and start time, that belong to the tree of leader *pid* whatever becomes of their
        parents. Never waits, never raises."""
        if pid not in self._trees:
            return
        noted = self._members.setdefault(pid, set())
        new = set(members) - noted
        noted |= new
        if self._helper and new:
            self._helper.send(b"".join(_membership(pid, *member) for member in new))

    def unregister(self, pid: int) -> None:
        """Tell that a tree is gone; to be done *before* its leader is reaped. Never waits, never raises."""
        self._members.pop(pid, None)
        if self._trees.pop(pid, None) is not None and self._helper:
            self._helper.send(b"-%d\n" % pid)

    @trio.lowlevel.enable_ki_protection
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start the guard, and replace it whenever it ends.

        Raises:
            GuardFailed: The first one could not be started.

        Cancellation: sends the helper away, which takes at most about 4 s, and leaves nothing behind. If a tree is
            still registered, the helper ends it first.
        """
        delay = 0.0
        try:
            if self._parent_pid is None:
                await self._start_helper()
            task_status.started()
            while True:
                since = trio.current_time()
                lost = await self._ended()
                if trio.current_time() - since >= STEADY:
                    delay = 0.0
                delay = await self._replace(lost, delay)
        finally:
            if self._helper:
                await self._helper.leave(polite=not self._trees)
                self._helper = None

    async def _start_helper(self) -> None:
        helper = await _Helper.start(self._supervisor_id)
        # No await between these, or a tree that is registered meanwhile would be unknown to it.
        self._helper = helper
        for pid, started in self._trees.items():
            helper.send(_registration(pid, started))
        for pid, members in self._members.items():
            for member in members:
                helper.send(_membership(pid, *member))

    async def _ended(self) -> int:
        """Wait for the end of the guard; tells its pid. There is none afterwards."""
        if self._helper:
            helper = self._helper
            await helper.serve()
            self._helper = None
            await helper.leave(polite=False)
            return helper.process.pid
        assert self._parent_pid is not None
        lost = self._parent_pid
        try:
            descriptor = os.pidfd_open(lost)
        except OSError:
            await trio.lowlevel.checkpoint()  # it has ended, or cannot be watched, which is no better
        else:
            try:
                await trio.lowlevel.wait_readable(descriptor)
            finally:
                os.close(descriptor)
        self._parent_pid = None
        return lost

    async def _replace(self, lost: int, delay: float) -> float:
        """Start a helper in place of *lost*, however often it takes; tells the delay for the next replacement."""
        failed = False
        while True:
            await trio.sleep(delay)
            delay = min(max(2 * delay, FIRST_DELAY), MAX_DELAY)
            try:
                await self._start_helper()
            except GuardFailed:
                if not failed:
                    self._on_lost(lost, None)
                failed = True
            else:
                self._on_lost(lost, self.pid)
                return delay


def _registration(pid: int, started: int) -> bytes:
    return b"+%d %d\n" % (pid, started)


def _membership(leader: int, pid: int, started: int) -> bytes:
    return b"=%d %d %d\n" % (leader, pid, started)


class _Helper:
    """One helper process and our end of the line to it."""

    def __init__(self, process: subprocess.Popen[bytes], line: socket.socket, pidfd: int) -> None:
        self.process = process
        self._line = line
        self._pidfd = pidfd
        self._unsent = bytearray()
        self._stuck = trio.lowlevel.ParkingLot()

    @classmethod
    async def start(cls, supervisor_id: str) -> _Helper:
        """Start a helper and wait until it is on guard.

        Raises:
            GuardFailed: It could not be started, or was not ready in time.

        Cancellation: ends it again.
        """
        try:
            helper = _spawn(supervisor_id)
        except OSError as error:
            raise GuardFailed(str(error)) from error
        said = b""
        try:
            with trio.move_on_after(READY_TIMEOUT) as ready_scope:
                await trio.lowlevel.wait_readable(helper._line)
                said = helper._line.recv(1)
        except OSError as error:
            await helper.leave(polite=False, timeout=0)
            raise GuardFailed(str(error)) from error
        except BaseException:
            await helper.leave(polite=False, timeout=0)
            raise
        if not said:
            await helper.leave(polite=False, timeout=0)
            late = f"it was not ready within {READY_TIMEOUT:g} s"
            raise GuardFailed(late if ready_scope.cancelled_caught else f"{sys.executable} ended at once")
        return helper

    def send(self, data: bytes) -> None:
        """Pass *data* on, now or as soon as the line takes it."""
        self._unsent += data
        self._flush()
        self._stuck.unpark()

    def _flush(self) -> None:
        try:
            # A broken pipe must not become a signal, whatever the host does about SIGPIPE.
            while self._unsent:
                del self._unsent[: self._line.send(self._unsent, socket.MSG_NOSIGNAL)]
        except BlockingIOError:
            pass
        except OSError:
            self._unsent.clear()  # it has ended: `serve` is about to tell, and the next one is told everything

    async def serve(self) -> None:
        """Write what could not be written at once; return when the helper has ended."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write_on)
            await trio.lowlevel.wait_readable(self._pidfd)
            nursery.cancel_scope.cancel()

    @trio.lowlevel.enable_ki_protection
    async def _write_on(self) -> None:
        while True:
            while self._unsent:
                await trio.lowlevel.wait_writable(self._line)
                self._flush()
            await self._stuck.park()

    async def leave(self, *, polite: bool, timeout: float = LEAVE_TIMEOUT) -> None:
        """Say good-bye if *polite*, hang up, and reap; kill it if that takes longer than *timeout* seconds.

        Cancellation: is not heeded; it takes at most about twice *timeout*.
        """
        if polite:
            self.send(b"bye\n")
        with trio.move_on_after(timeout, shield=True):
            while self._unsent:
                await trio.lowlevel.wait_writable(self._line)
                self._flush()
        self._line.close()
        for patience in (timeout, LEAVE_TIMEOUT):
            with trio.move_on_after(patience, shield=True):
                await trio.lowlevel.wait_readable(self._pidfd)
                self.process.wait()
                break
            self.process.kill()
        os.close(self._pidfd)


def _spawn(supervisor_id: str) -> _Helper:
    """Start the helper, which is ready later."""
    try:
        supervisor = os.pidfd_open(os.getpid())
    except OSError:
        supervisor = -1  # it still has the socket
    ours, theirs = socket.socketpair()
    try:
        ours.setblocking(False)
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(HELPER), supervisor_id, str(supervisor), str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno(), *([supervisor] if supervisor >= 0 else [])],
            start_new_session=True,
            cwd="/",
        )
        try:
            pidfd = os.pidfd_open(process.pid)
        except OSError:
            process.kill()
            process.wait()
            raise
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        if supervisor >= 0:
            os.close(supervisor)
    return _Helper(process, ours, pidfd)
