"""The operating system as the engine sees it: ports, processes, listeners.

The engine talks to a `System`; tests put a fake in its place (`trio_sup.testing.FakeSystem`).
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import resource
import select
import signal
import subprocess
import termios
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol

import attrs
import trio

from .._progress import Usage
from .._reports import ExitStatus, Survivor
from ..strategies import Launch
from . import _tree
from ._guard import Guard
from ._identity import Identity, identify
from ._listeners import ListenerWatch
from ._oom import Before, OutOfMemoryWatch
from ._output import Stream
from ._port_hold import hold_port
from ._sockets import SocketTable
from ._tree_ledger import TreeLedger
from ._tree_usage import exact_usage_of, usage_of

if TYPE_CHECKING:
    from ..bridge import Bridge, Channel

RESERVED_DESCRIPTORS = 32
"""Descriptors kept back for proving trees gone, health calls and shutdown when the limit is near."""

MEASURED_AT_ONCE = 2
"""Trees whose exact memory is measured at the same time."""

CHUNK = 64 * 1024
"""Bytes of output read at once."""

PUMPS_AT_A_TIME = 4
"""Chunks read each time around the loop: however many backends flood, everything else has its turn soon."""


class HeldPort(Protocol):
    """A port that the kernel gives to nobody else while this is open."""

    port: int

    def close(self) -> None: ...


@attrs.frozen
class TreeEnding:
    """What ending a tree came to: who is left, and how many outlived the leader."""

    survivors: tuple[Survivor, ...] = ()
    left_children: int = 0


class Child(Protocol):
    """A launched process with everything that descends from it."""

    pid: int
    environment: dict[str, str]

    def has_ended(self) -> bool: ...

    async def wait(self) -> ExitStatus:
        """Wait for the leader's end without reaping it. For one task only."""
        ...

    async def pump(self, stream: Stream, take: Callable[[bytes], None]) -> None:
        """Hand over what it writes until the end of file; when cancelled, what is there is still read."""
        ...

    def signal(self, number: signal.Signals, to: Literal["leader", "group"]) -> None: ...

    async def remember(self) -> None:
        """Note its descendants, so that they are still known when the leader is gone."""
        ...

    async def usage(self, *, exact_memory: bool = False) -> Usage | None:
        """What its tree has used so far; None if it could not be looked at. See `_tree_usage.usage_of`."""
        ...

    async def end_tree(self, timeout: float) -> TreeEnding:
        """SIGKILL whatever is left, and prove it gone, within *timeout* seconds."""
        ...

    async def survivors_ended(self) -> None:
        """Wait until what `end_tree` left alive has ended."""
        ...

    def out_of_memory(self) -> str | None:
        """What speaks for it that the kernel killed the leader for want of memory, in words; None if nothing does."""
        ...

    def close(self) -> None:
        """Reap the leader and let go of every descriptor."""
        ...


class System(Protocol):
    """Everything outside the engine that it needs."""

    def open(self, on_guard_lost: Callable[[int, int | None], None]) -> AbstractAsyncContextManager[None]: ...
    def hold_port(self, port: int) -> HeldPort | None: ...
    def launch(self, launch: Launch, attempt: int) -> Child: ...
    async def wait_for_listener(self, port: int) -> None: ...
    def identify(self, child: Child, port: int, channel: Channel) -> Identity | None: ...
    def channel(self, host: str, port: int, token: str | None) -> Channel: ...


_NO_INTERPRETER = "what it is run by is not there: the program in its #! line, or the loader it was built for"


class OutOfDescriptors(OSError):
    """One more backend would leave too few descriptors."""

    def __init__(self, limit: int) -> None:
        super().__init__(errno.EMFILE, os.strerror(errno.EMFILE))
        self.limit = limit


@attrs.define(eq=False)
class _HeldPort:
    port: int
    _socket: object

    def close(self) -> None:
        self._socket.close()  # type: ignore[attr-defined]  # a socket; typed loosely to keep the protocol small


class LinuxSystem:
    """The real thing."""

    def __init__(
        self,
        *,
        parent_guard: int | None = None,
        child_descriptor_limit: int | None = None,
        trees: TreeLedger | None = None,
    ) -> None:
        self.trees = trees or TreeLedger()
        self.id = self.trees.supervisor_id
        self._parent_guard = parent_guard
        self._child_descriptor_limit = child_descriptor_limit
        self._scan = _tree.SharedScan()
        self.pump_turns = trio.Semaphore(PUMPS_AT_A_TIME)
        self._measuring = trio.CapacityLimiter(MEASURED_AT_ONCE)
        self.oom = OutOfMemoryWatch()
        self._guard: Guard
        self._bridge: Bridge
        self._sockets: SocketTable
        self._listeners: ListenerWatch

    @asynccontextmanager
    async def open(self, on_guard_lost: Callable[[int, int | None], None]) -> AsyncIterator[None]:
        from ..bridge import open_bridge  # heavy, and not needed to import trio_sup

        self._guard = Guard(supervisor_id=self.id, parent_pid=self._parent_guard, on_lost=on_guard_lost)
        self._sockets = SocketTable()
        self._listeners = ListenerWatch(self._sockets)
        try:
            async with open_bridge() as self._bridge, trio.open_nursery() as nursery:
                await nursery.start(self._guard.run)
                nursery.start_soon(self._listeners.run, name="listener watch")
                yield
                nursery.cancel_scope.cancel(reason="the supervisor has ended")
        finally:
            self._sockets.close()

    def hold_port(self, port: int) -> HeldPort | None:
        held = hold_port(port)
        return _HeldPort(held.getsockname()[1], held) if held is not None else None

    def launch(self, launch: Launch, attempt: int) -> LinuxChild:
        """Start *launch* and register it with the guard, with no await between.

        Raises:
            OutOfDescriptors: The descriptor limit is near.
            OSError: The system refused.
        """
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest_free = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        os.close(lowest_free)
        if lowest_free + RESERVED_DESCRIPTORS > soft:
            raise OutOfDescriptors(soft)
        environment = _tree.marked(launch.environment, self.id, attempt)
        before = self.oom.before()
        # The limit is inherited at the fork: lowering our own for the length of a launch is exact. With too many
        # descriptors open for that, the child's is set right after its launch.
        limit = self._child_descriptor_limit
        lower = limit is not None and lowest_free + RESERVED_DESCRIPTORS <= limit
        with _lowered_descriptor_limit(limit) if lower and limit is not None else nullcontext():
            process = _spawned(launch, environment)
        note_members = partial(self._guard.note_members, process.pid)
        tree = _tree.Tree(process.pid, _tree.marker_entry(self.id, attempt), note_members)
        # Before anything that can fail: from here on the guard would end it.
        self._guard.register(tree.pid, tree.started)
        self.trees.add(tree.pid, tree.started)
        if limit is not None and not lower:
            # It may have ended already, or be another user's by now; both may go on with the limit they have.
            with suppress(ProcessLookupError, PermissionError):
                resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (limit, hard))
        return LinuxChild(process, environment, tree, self, before)

    def forget(self, pid: int) -> None:
        self._guard.unregister(pid)
        self.trees.remove(pid)

    @property
    def scan(self) -> _tree.SharedScan:
        return self._scan

    @property
    def measuring(self) -> trio.CapacityLimiter:
        return self._measuring

    async def wait_for_listener(self, port: int) -> None:
        await self._listeners.wait_for(port)

    def identify(self, child: Child, port: int, channel: Channel) -> Identity | None:
        assert isinstance(child, LinuxChild)
        local, remote = channel.local_address(), channel.remote_address()
        return identify(
            port,
            child.tree_pids,
            self._sockets,
            leader=child.pid,
            uid=os.geteuid(),
            connection=(local, remote) if local and remote else None,
            proven=child.proven_sockets,
        )

    def channel(self, host: str, port: int, token: str | None) -> Channel:
        # A backend that binds every address is called over loopback.
        return self._bridge.channel({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port, token=token)


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


def _spawned(launch: Launch, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            launch.arguments,
            executable=launch.executable,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=environment,
            cwd=launch.cwd,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        if error.filename == launch.executable and os.path.exists(launch.executable):
            raise FileNotFoundError(error.errno, _NO_INTERPRETER, launch.executable) from error
        raise


@contextmanager
def _lowered_descriptor_limit(limit: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limit, soft), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
