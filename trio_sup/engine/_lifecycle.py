"""The life of a slot: one task that runs attempt after attempt until nobody wants another.

The task is immune to the cancellation of whatever surrounds it; only `Attempt.end` ends an attempt. So there is no
path from a launched process to an abandoned one: what follows the life scope always runs, and always within bounds.
"""

from __future__ import annotations

import copy
import errno
import math
import re
import resource
import time
import traceback
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import attrs
import trio

from .. import events
from .._phases import Cause, Phase, check_move
from .._reports import ExitReport, StopReport
from .._values import ProcessKey
from ..defaults._file_lock import FileLock
from ..defaults._ports import AffinityPorts
from ..defaults._stop_policies import Terminate
from ..errors import (
    AttemptCrashed,
    DiedDuringStartup,
    LaunchFailed,
    NoPortAvailable,
    NotReadyInTime,
    StartFailed,
    StopFailed,
    StoppedDuringStartup,
    TooFewDescriptors,
    TrioSupError,
)
from ..protocol.address import join_address
from ..strategies import InstallLock, Launch, PortsExhausted, PortStrategy, ProbeTarget, StopPolicy
from ._command import prepare
from ._event_stream import EventHub
from ._identity import Identity, Verdict
from ._lock_holder import LockHolder
from ._output import Output, Stream
from ._plugin_calls import PluginCalls
from ._side_tasks import SideTasks
from ._slot import Attempt, Slot
from ._stop_target import Target
from ._system import HeldPort, System, TreeEnding

KILL_TIMEOUT = 5.0
"""Seconds that a tree has to end after SIGKILL; a driver may hold a process in the kernel that long."""

FIRST_RETRY = 0.005
"""Seconds from a refused first health check to the second one; the wait then doubles up to the interval."""

KEPT_REPORTS = 20
"""Exit reports kept per key (design promise P8)."""

_PORT_TAKEN = re.compile(r"address already in use|EADDRINUSE|WSAEADDRINUSE|os error 98|errno[ :=]*98", re.IGNORECASE)


async def _first_of(*waits: Callable[[], Awaitable[object]]) -> None:
    """Return as soon as one of *waits* does, and cancel the others."""
    async with trio.open_nursery() as nursery:

        async def wait(fn: Callable[[], Awaitable[object]]) -> None:
            await fn()
            nursery.cancel_scope.cancel()

        for fn in waits:
            nursery.start_soon(wait, fn)


@attrs.define(eq=False, kw_only=True)
class Lifecycle:
    """What the tasks of all slots share."""

    system: System
    hub: EventHub
    side: SideTasks
    ports: PortStrategy
    ports_name: str
    install_lock: InstallLock
    install_lock_name: str
    on_output: Callable[[Output], None] | None
    calls: PluginCalls
    closing: bool = False
    reports: dict[ProcessKey, deque[ExitReport]] = attrs.field(factory=dict)
    _fallback_ports: AffinityPorts | None = None
    _generation: int = 0

    def next_generation(self) -> int:
        self._generation += 1
        return self._generation

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
            self._drop_placeholder(slot)
            return  # the supervisor ends before the survivors do: neither slot nor port can be called free
        self._let_go_of_port(slot)
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
        # The pumps have made their last read: the report sees all that was written.
        await self._conclude(slot, attempt, partial(self._report, slot, attempt, phase, began_at, killed), ending)

    async def _live(self, slot: Slot, attempt: Attempt, pumps: trio.Nursery) -> None:
        spec = attempt.spec
        slot.waits_for = f"the install lock of {spec.name}"
        self._move(slot, Phase.WAITING, partial(events.BackendWaiting, waits_for=slot.waits_for))
        lock = await self._lock(spec.name, pumps)
        try:
            attempt.command = prepare(spec)
            self._launch(slot, attempt)
        finally:
            lock.let_go()
        # No await since the launch: a cancel from here on finds the process watched.
        pumps.start_soon(self._watch_exit, attempt, name=f"exit of {slot.key}")
        pumps.start_soon(self._pump, attempt, "stdout", name=f"stdout of {slot.key}")
        pumps.start_soon(self._pump, attempt, "stderr", name=f"stderr of {slot.key}")
        assert attempt.launched_at is not None
        with trio.CancelScope(deadline=attempt.launched_at + spec.readiness.timeout) as ready_scope:
            await self._become_ready(slot, attempt)
        if ready_scope.cancelled_caught:
            attempt.cause = attempt.cause or Cause.DEADLINE
            return
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
                self._take_port(slot)
            assert slot.port is not None
            if slot.wanted.port_collisions:
                self._drop_placeholder(slot)
            attempt.child = self.system.launch(self._prepare(slot, attempt), attempt.generation)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
                raise TooFewDescriptors(slot.key, attempt.generation, limit=limit) from error
            raise LaunchFailed(slot.key, attempt.generation, why=error.strerror or str(error)) from error
        attempt.launched_at, attempt.launched_time = trio.current_time(), time.time()
        attempt.channel = self.system.channel(attempt.spec.host, slot.port, attempt.command.token)
        self._move(slot, Phase.STARTING, partial(events.BackendStarting, pid=attempt.child.pid, port=slot.port))

    def _prepare(self, slot: Slot, attempt: Attempt) -> Launch:
        """What is to be executed, after all launch preparations.

        Raises:
            LaunchFailed: One of them failed; a launch that was not prepared as asked for must not happen.
        """
        command, port = attempt.command, slot.port
        assert command is not None
        assert port is not None
        launch = Launch(
            key=slot.key,
            spec=attempt.spec,
            executable=command.executable,
            arguments=command.arguments(port),
            environment=command.environment,
            cwd=command.cwd,
            port=port,
        )
        for name, preparation in slot.wanted.preparations:
            try:
                with self.calls.timed(name, "prepare()"):
                    launch = preparation.prepare(launch)
                if not isinstance(launch, Launch):
                    raise TypeError(f"prepare() returned {launch!r}")
            except Exception as error:
                why = f"the launch preparation {name!r} failed: {error}"
                raise LaunchFailed(slot.key, attempt.generation, why=why) from error
        return launch

    async def _watch_exit(self, attempt: Attempt) -> None:
        assert attempt.child is not None
        attempt.status = await attempt.child.wait()
        attempt.exited_at = trio.current_time()
        attempt.exited.set()
        attempt.end(Cause.EXITED)

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

    # ---- readiness

    async def _become_ready(self, slot: Slot, attempt: Attempt) -> None:
        assert slot.port is not None
        assert attempt.child is not None
        assert attempt.channel is not None
        spec, probe = attempt.spec, attempt.wanted.probe
        host = spec.host
        target = ProbeTarget(
            key=slot.key,
            spec=spec,
            pid=attempt.child.pid,
            host=host,
            port=slot.port,
            address=join_address(host, slot.port),
            channel=attempt.channel,
            environment=attempt.child.environment,
            call_timeout=spec.readiness.call_timeout,
        )
        wait = spec.readiness.interval
        if probe.needs_listener:
            await self.system.wait_for_listener(slot.port)
            wait = min(FIRST_RETRY, wait)
        while True:
            attempt.last_health_error = await self._check(slot, attempt, target)
            if attempt.last_health_error is None:
                break
            await trio.sleep(wait)
            wait = min(wait * 2, spec.readiness.interval)
        attempt.speaks_grpc = probe.speaks_grpc
        if attempt.child.has_ended():
            await trio.sleep_forever()  # the exit watch is about to end this attempt: never READY with a dead process
        attempt.start_seconds = trio.current_time() - (attempt.launched_at or 0.0)
        self._move(
            slot,
            Phase.READY,
            partial(
                events.BackendReady,
                address=target.address,
                pid=attempt.child.pid,
                start_seconds=attempt.start_seconds,
            ),
        )
        slot.wanted.succeed(slot.snapshot())

    async def _check(self, slot: Slot, attempt: Attempt, target: ProbeTarget) -> str | None:
        """One health check with the proof of identity: None if both passed, else the reason."""
        probe = attempt.wanted.probe
        result = await self.side.run(f"probe of {slot.key}", partial(probe.check, target), budget=target.call_timeout)
        if result.timed_out:
            return f"no answer within {target.call_timeout:g} s"
        if not result.finished or result.error is not None:
            return str(result.error) or repr(result.error)
        if attempt.spec.identity == "off":
            return None
        assert attempt.child is not None
        identity = self.system.identify(attempt.child, target.port, target.channel)
        if identity is None or (not probe.needs_listener and not identity.listens):
            return None
        return self._judge(slot, attempt, identity)

    def _judge(self, slot: Slot, attempt: Attempt, identity: Identity) -> str | None:
        if identity.verdict is Verdict.OURS:
            return None
        if identity.verdict is Verdict.STRANGER:
            return f"port {slot.port} is answered by something that is not part of this backend: {identity.why}"
        if attempt.spec.identity == "strict" or identity.uid_matches is False:
            return f"cannot tell who owns port {slot.port}: {identity.why}"
        self.hub.publish(events.IdentityUncertain(key=slot.key, generation=attempt.generation, why=identity.why))
        return None

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
        if not attempt.exited.is_set() and not attempt.forced.is_set():
            await child.remember()
            await self._ask(slot, attempt)
        killed = not attempt.exited.is_set()
        ending = await child.end_tree(KILL_TIMEOUT)
        with trio.move_on_after(1.0):
            await attempt.exited.wait()
        return ending, killed

    async def _ask(self, slot: Slot, attempt: Attempt) -> None:
        """Let the stop policy ask; the built-in one takes over if it fails."""
        policy, name = attempt.wanted.stop_policy, attempt.wanted.stop_policy_name
        failure = await self._run_policy(slot, attempt, policy)
        if failure is None or attempt.exited.is_set() or attempt.forced.is_set():
            return
        self._plugin_failed(f"stop policy {name!r}", failure, "the built-in 'terminate' takes over", slot.key)
        await self._run_policy(slot, attempt, Terminate())

    async def _run_policy(self, slot: Slot, attempt: Attempt, policy: StopPolicy) -> str | None:
        spec = attempt.spec
        try:
            with self.calls.timed(attempt.wanted.stop_policy_name, "budget()"):
                budget = float(policy.budget(spec))
        except Exception as error:
            return f"its budget() raised {error!r}"
        if not (math.isfinite(budget) and budget >= 0):
            return f"its budget() returned {budget!r}"
        result = await self.side.run(
            f"stop policy of {slot.key}",
            partial(policy.stop, Target(slot.key, spec, attempt)),
            budget=budget,
            cancel_when=partial(_first_of, attempt.exited.wait, attempt.forced.wait),
        )
        if result.error is not None:
            return f"its stop() raised {result.error!r}"
        if result.timed_out:
            self._plugin_failed(
                f"stop policy {attempt.wanted.stop_policy_name!r}",
                f"its stop() took longer than its budget of {budget:g} s",
                "the process is killed",
                slot.key,
            )
        return None

    async def _conclude(
        self, slot: Slot, attempt: Attempt, report_now: Callable[[TreeEnding], ExitReport], ending: TreeEnding
    ) -> None:
        """Write the report, tell who waits, and stay until nothing is left."""
        child = attempt.child
        if child is None:
            slot.wanted.fail(self._start_error(slot, attempt, None))
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
            await _first_of(child.survivors_ended, slot.try_again.wait)
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
                self._let_go_of_port(slot)
            self._drop_placeholder(slot)
            slot.wanted.port_collisions += 1
            slot.next = slot.wanted
        else:
            slot.wanted.fail(self._start_error(slot, attempt, report))
        if slot.next is not None:
            self.hub.publish(events.BackendExited(key=slot.key, generation=attempt.generation, report=report))

    def _report(
        self, slot: Slot, attempt: Attempt, phase: Phase, began_at: float, killed: bool, ending: TreeEnding
    ) -> ExitReport:
        now = trio.current_time()
        assert attempt.child is not None
        assert attempt.launched_at is not None
        tail = attempt.stderr.tail()
        died_starting = attempt.cause is Cause.EXITED and phase is Phase.STARTING
        if died_starting and slot.wanted.port_collisions < 2 and _PORT_TAKEN.search(tail + attempt.stdout.tail()):
            attempt.cause = Cause.PORT_TAKEN
        cause = attempt.cause or Cause.INTERNAL_ERROR
        status = attempt.status
        asked = cause in (Cause.ASKED, Cause.REPLACED, Cause.SHUTDOWN, Cause.ABANDONED, Cause.STALE_DIRECTORY)
        by_itself = cause is Cause.EXITED and status is not None and status.code in attempt.spec.success_codes
        return ExitReport(
            key=slot.key,
            generation=attempt.generation,
            pid=attempt.child.pid,
            cause=cause,
            phase=phase,
            status=status,
            success=asked or by_itself,
            ended_at=time.time(),
            lived=(attempt.exited_at or now) - attempt.launched_at,
            stop_seconds=now - began_at,
            killed=killed,
            left_children=0 if killed else ending.left_children,
            survivors=ending.survivors,
            last_health_error=attempt.last_health_error,
            stderr_tail=tail,
            traceback="".join(traceback.format_exception(attempt.crash)) if attempt.crash else None,
        )

    def _start_error(self, slot: Slot, attempt: Attempt, report: ExitReport | None) -> Callable[[], TrioSupError]:
        if attempt.error is not None:
            return partial(copy.copy, attempt.error)
        error: type[StartFailed]
        extra: dict[str, Any] = {}
        match attempt.cause:
            case Cause.EXITED | Cause.PORT_TAKEN:
                error = DiedDuringStartup
            case Cause.DEADLINE:
                error, extra = NotReadyInTime, {"timeout": attempt.spec.readiness.timeout}
            case Cause.INTERNAL_ERROR | None:
                error, extra = AttemptCrashed, {"why": repr(attempt.crash)}
            case cause:
                error, extra = StoppedDuringStartup, {"cause": cause.value}
        return partial(
            error,
            slot.key,
            generation=attempt.generation,
            elapsed=(attempt.exited_at or trio.current_time()) - (attempt.launched_at or attempt.created_at),
            address=slot.address(),
            report=report,
            stderr_tail=report.stderr_tail if report else "",
            last_health_error=attempt.last_health_error,
            **extra,
        )

    def _keep(self, report: ExitReport) -> None:
        self.reports.setdefault(report.key, deque(maxlen=KEPT_REPORTS)).append(report)

    # ---- ports

    def _take_port(self, slot: Slot) -> None:
        """Let the strategy choose, check what it chose, and hold it for the life of the slot.

        Raises:
            NoPortAvailable: It has none.
        """
        try:
            self._allocate(slot, self.ports)
        except PortsExhausted as error:
            raise NoPortAvailable(slot.key, slot.attempt.generation, why=str(error)) from error
        except OSError:
            raise
        except Exception as error:
            self._plugin_failed(
                f"port strategy {self.ports_name!r}", f"it failed with {error!r}", "'affinity' takes over", slot.key
            )
            self._fallback_ports = self._fallback_ports or AffinityPorts()
            self._allocate(slot, self._fallback_ports)

    def _allocate(self, slot: Slot, strategy: PortStrategy) -> None:
        held: dict[int, HeldPort] = {}

        def hold(port: int) -> int | None:
            taken = self.system.hold_port(port)
            if taken is None:
                return None
            held[taken.port] = taken
            return taken.port

        try:
            with self.calls.timed(self.ports_name, "allocate()"):
                port = strategy.allocate(slot.key, trio.current_time(), hold)
            if port not in held:
                raise ValueError(f"allocate() returned {port!r}, which it does not hold")
            slot.held_port, slot.port, slot.port_strategy = held.pop(port), port, strategy
        finally:
            for unused in held.values():
                unused.close()
        stolen = getattr(strategy, "stolen", None)
        if stolen is not None:
            self.hub.publish(
                events.PortStolen(key=slot.key, generation=slot.attempt.generation, port=port, kept_for=stolen[1])
            )

    def _drop_placeholder(self, slot: Slot) -> None:
        if slot.held_port is not None:
            slot.held_port.close()
            slot.held_port = None

    def _let_go_of_port(self, slot: Slot) -> None:
        self._drop_placeholder(slot)
        if slot.port is None or slot.port_strategy is None:
            return
        try:
            with self.calls.timed(self.ports_name, "release()"):
                slot.port_strategy.release(slot.key, slot.port, trio.current_time())
        except Exception as error:
            self._plugin_failed(
                f"port strategy {self.ports_name!r}", f"release() raised {error!r}", "it was ignored", slot.key
            )
        slot.port = slot.port_strategy = None

    # ---- telling

    def _move(self, slot: Slot, phase: Phase, make_event: Callable[..., events.BackendMoved]) -> None:
        """The one function that changes a phase."""
        check_move(slot.phase, phase)
        previous, slot.phase = slot.phase, phase
        self.hub.publish(make_event(key=slot.key, generation=slot.attempt.generation, previous=previous, phase=phase))

    def _plugin_failed(self, plugin: str, what: str, instead: str, key: ProcessKey | None = None) -> None:
        self.hub.publish(events.PluginFailed(plugin=plugin, what=what, instead=instead, key=key))
