"""From a slot that may start to a watched process: the install lock, the port, the launch, and its pumps."""

from __future__ import annotations

import errno
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import attrs
import trio

from .. import events
from .._phases import Cause, Phase
from ..defaults._file_lock import FileLock
from ..errors import LaunchFailed, TooFewDescriptors
from ..gallery._locking import waited_for
from ..strategies import InstallLock
from ._command import prepare
from ._lock_holder import LockHolder
from ._logs import Logs
from ._moves import Moves
from ._output import Output, Stream
from ._plugin_calls import PluginCalls
from ._port_lease import PortLeases
from ._preparing import prepared
from ._releases import Releases
from ._side_tasks import SideTasks
from ._slot import Attempt, Slot
from ._system import System

LOOK_AGAIN = 0.5
"""Seconds between two looks at who has the install lock that is waited for."""


@attrs.define(eq=False, kw_only=True)
class Launching:
    """Launches attempts, one process each time around the event loop."""

    system: System
    moves: Moves
    side: SideTasks
    ports: PortLeases
    install_lock: InstallLock
    install_lock_name: str
    on_output: Callable[[Output], None] | None
    logs: Logs
    calls: PluginCalls
    releases: Releases | None
    _launching: trio.Lock = attrs.field(factory=trio.Lock)

    async def launch(self, slot: Slot, attempt: Attempt, pumps: trio.Nursery, may_start: Callable[[], bool]) -> bool:
        """Start the process of *attempt*; what watches it runs in *pumps*.

        Args:
            may_start: Asked at the last moment, since the wait for the lock may be long.

        Returns:
            Whether it did.

        Raises:
            InvalidCommand, InvalidValue: It cannot be executed.
            UnknownRelease, UnknownEntry, GalleryUnavailable, InstallFailed: Its release is missing, and is not to be,
                or cannot be, installed.
            NoPortAvailable, LaunchFailed: There is no port for it, or the system refused.

        Cancellation: before the launch it leaves nothing; after it, the process is watched.
        """
        spec = attempt.spec
        locked = spec.name
        if spec.release is not None and self.releases is not None:
            with _refusals_told(attempt, "its release cannot be installed: "):
                locked = (await self.releases.ensure(spec.release, partial(self.moves.wait_for, slot))).concrete_name
        self.moves.wait_for(slot, f"the install lock of {locked}")
        lock = await self._lock(slot, locked, pumps)
        try:
            # A launch blocks until its program is executed: one each time around the loop, whoever else waits.
            async with self._launching:
                if not may_start():
                    return False
                self._launch(slot, attempt)
                # No await since the launch: a cancel from here on finds the process watched.
                pumps.start_soon(self._watch_exit, attempt, name=f"exit of {slot.key}")
                pumps.start_soon(self._pump, attempt, "stdout", name=f"stdout of {slot.key}")
                pumps.start_soon(self._pump, attempt, "stderr", name=f"stderr of {slot.key}")
                return True
        finally:
            lock.let_go()

    async def _lock(self, slot: Slot, backend: str, nursery: trio.Nursery) -> LockHolder:
        """Wait for the install lock; the built-in one takes over from one that fails."""
        holder = self._holder(self.install_lock, backend, nursery)
        if await self._acquired(slot, backend, holder):
            return holder
        beside_releases = self.releases is not None and self.install_lock == FileLock(self.releases.locks_dir)
        if beside_releases or not isinstance(self.install_lock, FileLock) or holder.error is None:
            what, instead = f"it failed with {holder.error!r}", "the built-in 'file' takes over"
            if beside_releases:
                # Releases that one may only read can be run all the same.
                what, instead = f"it failed: {holder.error}", "one in a directory of this user takes over"
            self._plugin_failed(f"install lock {self.install_lock_name!r}", what, instead)
            holder = self._holder(FileLock(), backend, nursery)
            if await holder.acquired():
                return holder
        with _refusals_told(
            slot.attempt, "the install lock 'file' cannot be had, give it another directory or choose 'memory': "
        ):
            raise holder.error or RuntimeError("the install lock was given up")

    def _holder(self, lock: InstallLock, backend: str, nursery: trio.Nursery) -> LockHolder:
        holder = LockHolder(self.side, lock, backend)
        nursery.start_soon(holder.run, name=f"install lock of {backend}")
        return holder

    async def _acquired(self, slot: Slot, backend: str, holder: LockHolder) -> bool:
        """Wait for the lock, and say who has it while that takes long."""
        while True:
            with trio.move_on_after(LOOK_AGAIN):
                return await holder.acquired()
            waits_for = self.calls.call(self.install_lock_name, "holders()", waited_for, self.install_lock, backend)
            self.moves.wait_for(slot, waits_for)

    def _prepare(self, attempt: Attempt) -> None:
        spec = attempt.spec
        if spec.release is None or self.releases is None:
            attempt.command = prepare(spec)
            return
        # Only now, with the lock held, do its files stay what they are until it is held itself.
        release = self.releases.find(spec.release)
        attempt.command = prepare(spec, release)
        attempt.let_go_of_release = self.releases.hold(release)

    def _launch(self, slot: Slot, attempt: Attempt) -> None:
        """Take a port and start the process: one synchronous step, so that nothing can come between."""
        with _refusals_told(attempt):
            self._prepare(attempt)
            self.ports.take(slot)
            assert slot.port is not None
            if slot.wanted.port_collisions:
                self.ports.drop_placeholder(slot)
            launch = prepared(attempt, slot.port, self.calls)
            attempt.child = self.system.launch(launch, attempt.generation)
        assert attempt.command is not None
        attempt.launched_at, attempt.launched_time = trio.current_time(), time.time()
        attempt.channel = self.system.channel(attempt.spec.host, slot.port, attempt.command.token)
        self.moves.make(slot, Phase.STARTING, partial(events.BackendStarting, pid=attempt.child.pid, port=slot.port))

    @trio.lowlevel.enable_ki_protection
    async def _watch_exit(self, attempt: Attempt) -> None:
        assert attempt.child is not None
        attempt.status = await attempt.child.wait()
        attempt.exited_at = trio.current_time()
        attempt.exited.set()
        attempt.end(Cause.EXITED)

    @trio.lowlevel.enable_ki_protection
    async def _pump(self, attempt: Attempt, stream: Stream) -> None:
        assert attempt.child is not None
        log = attempt.log = attempt.log or self.logs.begin(attempt.key, attempt.generation, attempt.spec.logs)

        def take(data: bytes) -> None:
            log.take(stream, data)
            attempt.output_bytes += len(data)
            if self.on_output is not None:
                try:
                    self.on_output(Output(attempt.key, attempt.generation, stream, data))
                except Exception as error:
                    self.on_output = None
                    self._plugin_failed("on_output", f"it raised {error!r}", "output is no longer passed on")

        try:
            await attempt.child.pump(stream, take)
        finally:
            log.end(stream)

    def _plugin_failed(self, plugin: str, what: str, instead: str) -> None:
        self.moves.hub.publish(events.PluginFailed(plugin=plugin, what=what, instead=instead))


@contextmanager
def _refusals_told(attempt: Attempt, what: str = "") -> Iterator[None]:
    """Make what the system refuses the failure of this start; *what* comes before its reason."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            raise TooFewDescriptors(attempt.key, attempt.generation, limit=limit) from error
        where = f": {error.filename}" if error.filename else ""
        why = f"{what}{error.strerror or error}{where}"
        raise LaunchFailed(attempt.key, attempt.generation, why=why) from error
