"""The life of a slot: one task that runs attempt after attempt until nobody wants another.

The task is immune to the cancellation of whatever surrounds it; only `Attempt.end` ends an attempt. So there is no
path from a launched process to an abandoned one: what follows the life scope always runs, and always within bounds.
"""

from __future__ import annotations

import errno
import resource
import time
from collections import deque
from collections.abc import Callable
from functools import partial

import attrs
import trio

from .. import events
from .._phases import Cause, Phase, check_move
from .._reports import ExitReport, StopReport
from .._values import ProcessKey
from ..defaults._file_lock import FileLock
from ..errors import LaunchFailed, StopFailed, TooFewDescriptors, TrioSupError
from ..strategies import InstallLock
from ._asking import Asking
from ._command import prepare
from ._event_stream import EventHub
from ._first_of import first_of
from ._lock_holder import LockHolder
from ._outcome import died_of_taken_port, exit_report, start_error
from ._output import Output, Stream
from ._plugin_calls import PluginCalls
from ._port_lease import PortLeases
from ._preparing import prepared
from ._readiness import ReadinessGate
from ._side_tasks import SideTasks
from ._slot import Attempt, Slot
from ._system import System, TreeEnding

KILL_TIMEOUT = 5.0
"""Seconds that a tree has to end after SIGKILL; a driver may hold a process in the kernel that long."""

KEPT_REPORTS = 20
"""Exit reports kept per key (design promise P8)."""

MOST_COLLISIONS = 2
"""Times that a start is tried again because its port was taken: without the placeholder, then on another port."""


@attrs.define(eq=False, kw_only=True)
class Lifecycle:
    """What the tasks of all slots share."""

    system: System
    hub: EventHub
    side: SideTasks
    ports: PortLeases
    readiness: ReadinessGate
    asking: Asking
    install_lock: InstallLock
    install_lock_name: str
    on_output: Callable[[Output], None] | None
    calls: PluginCalls
    closing: bool = False
    reports: dict[ProcessKey, deque[ExitReport]] = attrs.field(factory=dict)
    _generation: int = 0
    _launching: trio.Lock = attrs.field(factory=trio.Lock)

    def next_generation(self) -> int:
        self._generation += 1
        return self._generation

    @trio.lowlevel.enable_ki_protection
    async def fill(self, slot: Slot, forget: Callable[[Slot], None]) -> None:
        """Run attempts until none is wanted; then *forget* the slot, with no await after the decision."""
        with trio.CancelScope(shield=True):
            await self._run(slot)
            while slot.next is not None:
                slot.wanted, slot.next = slot.next, None
                slot.attempt = Attempt(slot.key, self.next_generation(), slot.wanted, trio.current_time())
                await self._run(slot)
        forget(slot)
        ending = slot.attempt.ending.report
        if ending is not None and not ending.gone:
            self.ports.drop_placeholder(slot)
            return  # the supervisor ends before the survivors do: neither slot nor port can be called free
        self.ports.give_back(slot)
        kept = self.reports.get(slot.key)
        report = kept[-1] if kept and kept[-1].generation == slot.attempt.generation else None
        self._move(slot, Phase.GONE, partial(events.BackendGone, report=report))

    # ---- one attempt

    async def _run(self, slot: Slot) -> None:
        attempt = slot.attempt
        async with trio.open_nursery() as pumps:
            try:
                with attempt.life_scope:
                    await self._live(slot, attempt, pumps)
            except TrioSupError as error:
                attempt.error = error
            except Exception as crash:
                attempt.crash = crash
                attempt.cause = Cause.INTERNAL_ERROR
            phase, began_at = slot.phase, trio.current_time()
            ending, killed = await self._end(slot, attempt)
            pumps.cancel_scope.cancel(reason="the tree has ended")
        # The pumps have made their last read: what follows sees all that was written.
        if slot.wanted.port_collisions < MOST_COLLISIONS and died_of_taken_port(attempt, phase):
            attempt.cause = Cause.PORT_TAKEN
        await self._conclude(slot, attempt, partial(exit_report, attempt, phase, began_at, killed), ending)

    async def _live(self, slot: Slot, attempt: Attempt, pumps: trio.Nursery) -> None:
        spec = attempt.spec
        slot.waits_for = f"the install lock of {spec.name}"
        self._move(slot, Phase.WAITING, partial(events.BackendWaiting, waits_for=slot.waits_for))
        lock = await self._lock(spec.name, pumps)
        try:
            # A launch blocks until its program is executed: one each time around the loop, whoever else waits.
            async with self._launching:
                attempt.command = prepare(spec)
                self._launch(slot, attempt)
                # No await since the launch: a cancel from here on finds the process watched.
                pumps.start_soon(self._watch_exit, attempt, name=f"exit of {slot.key}")
                pumps.start_soon(self._pump, attempt, "stdout", name=f"stdout of {slot.key}")
                pumps.start_soon(self._pump, attempt, "stderr", name=f"stderr of {slot.key}")
        finally:
            lock.let_go()
        assert attempt.launched_at is not None
        with trio.CancelScope(deadline=attempt.launched_at + spec.readiness.timeout) as ready_scope:
            await self.readiness.passed(slot, attempt)
        if ready_scope.cancelled_caught:
            attempt.cause = attempt.cause or Cause.DEADLINE
            return
        self._ready(slot, attempt)
        await trio.sleep_forever()

    async def _lock(self, backend: str, nursery: trio.Nursery) -> LockHolder:
        """Wait for the install lock; the built-in one takes over from one that fails."""
        holder = LockHolder(self.side, self.install_lock, backend)
        nursery.start_soon(holder.run, name=f"install lock of {backend}")
        if await holder.acquired():
            return holder
        if isinstance(self.install_lock, FileLock) and holder.error is not None:
            raise holder.error
        what = f"it failed with {holder.error!r}"
        self._plugin_failed(f"install lock {self.install_lock_name!r}", what, "the built-in 'file' takes over")
        holder = LockHolder(self.side, FileLock(), backend)
        nursery.start_soon(holder.run, name=f"install lock of {backend}")
        if await holder.acquired():
            return holder
        raise holder.error or RuntimeError("the install lock was given up")

    def _launch(self, slot: Slot, attempt: Attempt) -> None:
        """Take a port and start the process: one synchronous step, so that nothing can come between."""
        assert attempt.command is not None
        try:
            if slot.port is None:
                self.ports.take(slot)
            assert slot.port is not None
            if slot.wanted.port_collisions:
                self.ports.drop_placeholder(slot)
            attempt.child = self.system.launch(prepared(attempt, slot.port, self.calls), attempt.generation)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
                raise TooFewDescriptors(slot.key, attempt.generation, limit=limit) from error
            raise LaunchFailed(slot.key, attempt.generation, why=error.strerror or str(error)) from error
        attempt.launched_at, attempt.launched_time = trio.current_time(), time.time()
        attempt.channel = self.system.channel(attempt.spec.host, slot.port, attempt.command.token)
        self._move(slot, Phase.STARTING, partial(events.BackendStarting, pid=attempt.child.pid, port=slot.port))

    def _ready(self, slot: Slot, attempt: Attempt) -> None:
        address = slot.address()
        assert attempt.child is not None
        assert attempt.launched_at is not None
        assert address is not None
        attempt.start_seconds = trio.current_time() - attempt.launched_at
        self._move(
            slot,
            Phase.READY,
            partial(events.BackendReady, address=address, pid=attempt.child.pid, start_seconds=attempt.start_seconds),
        )
        slot.wanted.succeed(slot.snapshot())

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
        ring = attempt.stdout if stream == "stdout" else attempt.stderr

        def take(data: bytes) -> None:
            ring.append(data)
            if self.on_output is not None:
                try:
                    self.on_output(Output(attempt.key, attempt.generation, stream, data))
                except Exception as error:
                    self.on_output = None
                    self._plugin_failed("on_output", f"it raised {error!r}", "output is no longer passed on")

        await attempt.child.pump(stream, take)

    # ---- the end

    async def _end(self, slot: Slot, attempt: Attempt) -> tuple[TreeEnding, bool]:
        """Ask, insist, prove. Bounded; tells what is left and whether the process had to be killed."""
        child = attempt.child
        if child is None:
            return TreeEnding(), False
        self._move(
            slot,
            Phase.STOPPING,
            partial(
                events.BackendStopping,
                cause=attempt.cause or Cause.INTERNAL_ERROR,
                then=slot.then,
                detail=str(attempt.status or attempt.last_health_error or ""),
            ),
        )
        # Whoever observes hears of it before the pass over /proc, which takes its time.
        await trio.lowlevel.checkpoint()
        if not attempt.exited.is_set() and not attempt.forced.is_set():
            await child.remember()
            await self.asking.ask(attempt)
        killed = not attempt.exited.is_set()
        ending = await child.end_tree(KILL_TIMEOUT)
        with trio.move_on_after(1.0):
            await attempt.exited.wait()
        return ending, killed

    async def _conclude(
        self, slot: Slot, attempt: Attempt, report_now: Callable[[TreeEnding], ExitReport], ending: TreeEnding
    ) -> None:
        """Write the report, tell who waits, and stay until nothing is left."""
        child = attempt.child
        if child is None:
            slot.wanted.fail(start_error(slot, attempt, None))
            attempt.ending.finish(StopReport(key=slot.key, generation=attempt.generation, gone=True))
            return
        if attempt.channel is not None:
            with trio.move_on_after(1.0):
                await attempt.channel.aclose()
        while ending.survivors:
            report = report_now(ending)
            failed = StopReport(
                key=slot.key, generation=attempt.generation, gone=False, survivors=ending.survivors, report=report
            )
            for wanted in (slot.wanted, slot.next):
                if wanted is not None:
                    wanted.fail(partial(StopFailed, [failed]))
            slot.next = None
            self._move(slot, Phase.STOP_FAILED, partial(events.BackendStopFailed, survivors=ending.survivors))
            slot.try_again = trio.Event()
            attempt.ending.finish(failed)
            if self.closing:
                break
            await first_of(child.survivors_ended, slot.try_again.wait)
            if not slot.try_again.is_set():
                ending = TreeEnding()
                break
            self._move(
                slot,
                Phase.STOPPING,
                partial(events.BackendStopping, cause=Cause.ASKED, then=slot.then, detail="one more try"),
            )
            ending = await child.end_tree(KILL_TIMEOUT)
        report = report_now(ending)
        child.close()
        self._keep(report)
        gone = not ending.survivors
        attempt.ending.finish(
            StopReport(
                key=slot.key, generation=attempt.generation, gone=gone, survivors=ending.survivors, report=report
            )
        )
        if attempt.cause is Cause.PORT_TAKEN and slot.next is None and not self.closing:
            # A server that sets no SO_REUSEADDR: the placeholder was in its way, or else what lingers of old
            # connections. So once more without the placeholder, and then on another port.
            if slot.wanted.port_collisions:
                self.ports.give_back(slot)
            self.ports.drop_placeholder(slot)
            slot.wanted.port_collisions += 1
            slot.next = slot.wanted
        else:
            slot.wanted.fail(start_error(slot, attempt, report))
        if slot.next is not None:
            self.hub.publish(events.BackendExited(key=slot.key, generation=attempt.generation, report=report))

    def _keep(self, report: ExitReport) -> None:
        self.reports.setdefault(report.key, deque(maxlen=KEPT_REPORTS)).append(report)

    # ---- telling

    def _move(self, slot: Slot, phase: Phase, make_event: Callable[..., events.BackendMoved]) -> None:
        """The one function that changes a phase."""
        check_move(slot.phase, phase)
        previous, slot.phase = slot.phase, phase
        self.hub.publish(make_event(key=slot.key, generation=slot.attempt.generation, previous=previous, phase=phase))

    def _plugin_failed(self, plugin: str, what: str, instead: str, key: ProcessKey | None = None) -> None:
        self.hub.publish(events.PluginFailed(plugin=plugin, what=what, instead=instead, key=key))
