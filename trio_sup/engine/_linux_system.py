"""The real operating system: the parts of it that all backends of one supervisor share, and the launch."""

from __future__ import annotations

import errno
import os
import resource
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING

import attrs
import trio

from ..strategies import Launch
from . import _tree
from ._guard import Guard
from ._identity import Identity, identify
from ._linux_child import LinuxChild
from ._listeners import ListenerWatch
from ._oom import OutOfMemoryWatch
from ._port_hold import hold_port
from ._sockets import SocketTable
from ._system import Child, HeldPort
from ._tree_ledger import TreeLedger

if TYPE_CHECKING:
    from ..bridge import Bridge, Channel

RESERVED_DESCRIPTORS = 32
"""Descriptors kept back for proving trees gone, health calls and shutdown when the limit is near."""

MEASURED_AT_ONCE = 2
"""Trees whose exact memory is measured at the same time."""

PUMPS_AT_A_TIME = 4
"""Chunks read each time around the loop: however many backends flood, everything else has its turn soon."""

_NO_INTERPRETER = "what it is run by is not there: the program in its #! line, or the loader it was built for"


@attrs.define(eq=False)
class _HeldPort:
    port: int
    _socket: socket.socket

    def close(self) -> None:
        self._socket.close()


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
        self.scan = _tree.SharedScan()
        self.pump_turns = trio.Semaphore(PUMPS_AT_A_TIME)
        self.measuring = trio.CapacityLimiter(MEASURED_AT_ONCE)
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
            OSError: The system refused, or the descriptor limit is near (EMFILE).
        """
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest_free = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        os.close(lowest_free)
        if lowest_free + RESERVED_DESCRIPTORS > soft:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
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
