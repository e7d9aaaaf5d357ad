"""The public face of the engine: start, stop, look, listen."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any

import trio

from .. import events
from .._phases import Cause, Phase
from .._reports import Backend, ExitReport, StopReport
from .._resolution import resolve
from .._units import seconds
from .._values import BackendSpec, ProcessKey, to_choice, to_key
from ..bridge import Channel
from ..errors import (
    CallFailed,
    InvalidValue,
    SpecConflict,
    StopFailed,
    StoppedDuringStartup,
    SupervisorClosed,
    Unsupported,
)
from ..strategies import LaunchPreparation
from ._asking import Asking
from ._command import check, identity_of
from ._event_stream import EventHub, EventStream
from ._lifecycle import KILL_TIMEOUT, Lifecycle
from ._observers import Observers
from ._output import Output
from ._plugin_calls import PluginCalls
from ._plugins import Plugins
from ._port_lease import PortLeases
from ._readiness import ReadinessGate
from ._services import Services
from ._side_tasks import SideTasks
from ._slot import Attempt, Ending, Slot, Wanted
from ._system import LinuxSystem, System

OLDEST_KERNEL = (5, 4)
"""The first with pidfd waiting and everything else the engine relies on."""


class Supervisor:
    """Starts, watches and ends backends. Made by [`open_supervisor`][trio_sup.open_supervisor] only.

    All methods may be called from any Trio task of the same run, also from one older than the supervisor.
    """

    def __init__(
        self, plugins: Plugins, lifecycle: Lifecycle, stop_policy: Any, nursery: trio.Nursery, shutdown_timeout: float
    ) -> None:
        self._plugins = plugins
        self._lifecycle = lifecycle
        self._stop_policy = stop_policy
        self._nursery = nursery
        self._shutdown_timeout = shutdown_timeout
        self._slots: dict[ProcessKey, Slot] = {}

    # ---- looking

    @property
    def backends(self) -> tuple[Backend, ...]:
        """A snapshot of every slot that is not gone, sorted by key."""
        return tuple(self._slots[key].snapshot() for key in sorted(self._slots))

    def resolve(self, identifier: ProcessKey | str) -> tuple[ProcessKey, ...]:
        """The keys that *identifier* means: an exact key, a model (its replicas), or a backend name or alias.

        A text with ``#`` that is no exact key means nothing.
        """
        return resolve(str(identifier), ((key, slot.attempt.spec) for key, slot in self._slots.items()))

    def is_running(self, identifier: ProcessKey | str) -> bool:
        """Whether *identifier* means at least one live process that is not on its way to the end."""
        slots = [self._slots[key] for key in self.resolve(identifier)]
        return any(slot.phase in (Phase.STARTING, Phase.READY) and not slot.is_ending() for slot in slots)

    def get_address(self, key: ProcessKey | str) -> str | None:
        """``host:port`` of a READY backend, else None.

        Raises:
            InvalidValue: *key* is not a process key.
        """
        slot = self._slots.get(to_key(key))
        if slot is None or slot.phase is not Phase.READY or slot.is_ending():
            return None
        return slot.address()

    def exit_reports(self, key: ProcessKey | str) -> tuple[ExitReport, ...]:
        """How the last attempts (at most 20) of *key* ended, oldest first; also when the supervisor has ended."""
        return tuple(self._lifecycle.reports.get(to_key(key), ()))

    def events(self) -> EventStream:
        """Observe everything that happens from now on; ends with the supervisor."""
        return self._lifecycle.hub.stream()

    @asynccontextmanager
    async def channel(self, key: ProcessKey | str) -> AsyncIterator[Channel]:
        """The gRPC channel to a READY backend; it is shared, and closed by the supervisor when the backend ends.

        Raises:
            CallFailed: There is no ready backend of that key.
        """
        slot = self._slots.get(to_key(key))
        if slot is None or slot.phase is not Phase.READY or slot.is_ending() or slot.attempt.channel is None:
            raise CallFailed("(channel)", "UNAVAILABLE", f"{key} is not ready")
        yield slot.attempt.channel

    # ---- starting

    @trio.lowlevel.enable_ki_protection
    async def start(
        self, spec: BackendSpec, *, model: str | None = None, replica: int = 0, replace: bool = False
    ) -> Backend:
        """Start *spec* in the slot ``model#replica`` and wait until it is ready.

        Callers that start the same key share one attempt. A slot that is ready already is returned as it is, unless
        its directory was replaced on disk; a dead one is replaced.

        Args:
            spec: What to run.
            model: What the slot serves; the backend's name by default.
            replica: Which of several, counted from 0.
            replace: End what runs there from another specification, and start this one.

        Returns:
            A snapshot of the ready backend.

        Raises:
            InvalidValue: The key makes no sense.
            InvalidCommand: The program cannot be executed.
            UnknownStrategy, InvalidOptions: A probe or stop policy is misnamed or misconfigured.
            SpecConflict: The slot runs from another specification, and *replace* is false.
            StartFailed: It died, was not ready in time, was stopped meanwhile, got no port, …
            StopFailed: What ran there before could not be ended.
            SupervisorClosed: The supervisor ends.

        Cancellation: returns at once. The attempt goes on as long as somebody else waits for it, and is ended by the
            supervisor otherwise; a backend that is ready stays.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        wanted = self._want(spec, model, replica, replace)
        wanted.waiters += 1
        try:
            await wanted.done.wait()
        finally:
            wanted.waiters -= 1
            if wanted.waiters == 0 and not wanted.done.is_set():
                self._abandon(wanted)
        return wanted.result()

    def _want(self, spec: BackendSpec, model: str | None, replica: int, replace: bool) -> Wanted:
        if not isinstance(spec, BackendSpec):
            raise InvalidValue(spec, "expected a trio_sup.BackendSpec")
        key = ProcessKey(spec.name if model is None else model, replica)
        if self._lifecycle.closing:
            raise SupervisorClosed
        slot = self._slots.get(key)
        if slot is None:
            wanted = self._make_wanted(spec)
            attempt = Attempt(key, self._lifecycle.next_generation(), wanted, trio.current_time())
            slot = self._slots[key] = Slot(key, wanted, attempt)
            self._nursery.start_soon(self._lifecycle.fill, slot, self._forget, name=f"backend {key}")
            return wanted
        if slot.attempt.child is not None and slot.attempt.child.has_ended():
            slot.attempt.end(Cause.EXITED)
        if slot.is_ending():
            return self._want_next(slot, spec, replace)
        differing = spec.differs_from(slot.attempt.spec)
        if differing:
            if not replace:
                raise SpecConflict(key, differing)
            check(spec)  # a command that cannot run must not end one that does
            return self._end_then_start(slot, spec, Cause.REPLACED)
        if slot.phase is Phase.READY and self._is_stale(slot):
            return self._end_then_start(slot, spec, Cause.STALE_DIRECTORY)
        return slot.wanted

    def _want_next(self, slot: Slot, spec: BackendSpec, replace: bool) -> Wanted:
        """Something ends in this slot: queue what comes after it."""
        if slot.next is not None:
            differing = spec.differs_from(slot.next.spec)
            if not differing:
                return slot.next
            if not replace:
                raise SpecConflict(slot.key, differing)
            self._drop_next(slot, Cause.REPLACED)
        slot.next = self._make_wanted(spec)
        if slot.phase is Phase.STOP_FAILED:
            slot.end_again()
        return slot.next

    def _end_then_start(self, slot: Slot, spec: BackendSpec, cause: Cause) -> Wanted:
        slot.next = self._make_wanted(spec)
        slot.attempt.end(cause)
        return slot.next

    def _make_wanted(self, spec: BackendSpec) -> Wanted:
        policy = spec.stop_policy if spec.stop_policy is not None else self._stop_policy
        return Wanted(
            spec,
            probe=self._plugins.make("probe", spec.readiness.probe),
            stop_policy=self._plugins.make("stop policy", policy),
            stop_policy_name=self._plugins.name_of("stop policy", policy),
            preparations=[self._make_preparation(choice, spec) for choice in spec.launch],
        )

    def _make_preparation(self, choice: Any, spec: BackendSpec) -> tuple[str, LaunchPreparation]:
        preparation = self._plugins.make("launch preparation", choice)
        name = self._plugins.name_of("launch preparation", choice)
        with self._lifecycle.calls.timed(name, "check()"):
            preparation.check(spec)
        return name, preparation

    def _is_stale(self, slot: Slot) -> bool:
        command = slot.attempt.command
        return (
            command is not None
            and command.directory_identity is not None
            and identity_of(command.directory) != command.directory_identity
        )

    def _abandon(self, wanted: Wanted) -> None:
        """The last waiter left before it was ready."""
        for slot in self._slots.values():
            if slot.next is wanted:
                slot.next = None
            elif slot.wanted is wanted and not slot.is_ending():
                slot.attempt.end(Cause.ABANDONED)

    def _forget(self, slot: Slot) -> None:
        del self._slots[slot.key]
        slot.gone.set()

    # ---- stopping

    async def stop(self, identifier: ProcessKey | str, *, force: bool = False) -> tuple[StopReport, ...]:
        """End what *identifier* means (see `resolve`), and wait until it is proven gone.

        Args:
            identifier: An exact key, a model, or a backend name or alias. One that means nothing is fine.
            force: SIGKILL at once, without Free and grace; also cuts short a stop that is under way.

        Returns:
            One report per key.

        Raises:
            StopFailed: Processes survived; it names them.

        Cancellation: returns at once; a stop once begun is finished all the same.
        """
        return await self._stop(self.resolve(identifier), force)

    async def stop_all(self, *, force: bool = False) -> tuple[StopReport, ...]:
        """End everything, in parallel. Otherwise like `stop`."""
        return await self._stop(tuple(sorted(self._slots)), force)

    @trio.lowlevel.enable_ki_protection
    async def _stop(self, keys: Iterable[ProcessKey], force: bool) -> tuple[StopReport, ...]:
        await trio.lowlevel.checkpoint_if_cancelled()
        endings = [self._begin_stop(self._slots[key], Cause.ASKED, force=force) for key in keys]
        reports = []
        for ending in endings:
            await ending.done.wait()
            assert ending.report is not None
            reports.append(ending.report)
        if not all(report.gone for report in reports):
            raise StopFailed(reports)
        return tuple(reports)

    def _begin_stop(self, slot: Slot, cause: Cause, *, force: bool) -> Ending:
        self._drop_next(slot, cause)
        if force:
            slot.attempt.forced.set()
        if slot.phase is Phase.STOP_FAILED:
            slot.end_again()
        else:
            slot.attempt.end(cause)
        return slot.attempt.ending

    def _drop_next(self, slot: Slot, cause: Cause) -> None:
        if slot.next is not None:
            dropped, slot.next = slot.next, None
            dropped.fail(lambda: _stopped(slot.key, cause))

    async def _shut_down(self) -> None:
        """End everything in parallel, within the shutdown budget."""
        self._lifecycle.closing = True
        slots = list(self._slots.values())
        for slot in slots:
            self._begin_stop(slot, Cause.SHUTDOWN, force=False)
        patience = max(self._shutdown_timeout - KILL_TIMEOUT - 1, self._shutdown_timeout / 2)
        with trio.move_on_after(patience):
            for slot in slots:
                await slot.gone.wait()
        for slot in self._slots.values():
            slot.attempt.forced.set()
        with trio.move_on_after(self._shutdown_timeout - patience + KILL_TIMEOUT):
            for slot in slots:
                await slot.gone.wait()


def _stopped(key: ProcessKey, cause: Cause) -> StoppedDuringStartup:
    return StoppedDuringStartup(key, cause=cause.value)


def check_platform() -> None:
    """Refuse platforms that the engine cannot work on.

    Raises:
        Unsupported: Not Linux, or a kernel that is too old.
    """
    if sys.platform != "linux":
        raise Unsupported(f"trio-sup supervises processes on Linux only; this is {sys.platform}")
    release = platform.release()
    match = re.match(r"(\d+)\.(\d+)", release)
    if match and (int(match[1]), int(match[2])) < OLDEST_KERNEL:
        raise Unsupported(f"trio-sup needs Linux 5.4 or newer; this is {release}")


@asynccontextmanager
async def open_supervisor(
    *,
    ports: Any = "affinity",
    install_lock: Any = "file",
    stop_policy: Any = "free-then-terminate",
    plugins: Iterable[object] | Plugins = (),
    sections: Mapping[str, object] = MappingProxyType({}),
    shutdown_timeout: float = 25.0,
    parent_guard: int | None = None,
    on_output: Callable[[Output], None] | None = None,
    child_descriptor_limit: int | None = None,
    system: System | None = None,
) -> AsyncIterator[Supervisor]:
    """Open a supervisor for the length of the block; at its end every backend is ended.

    Args:
        ports: Port strategy: a name, a table or [`Choice`][trio_sup.Choice] with options, or the object itself.
        install_lock: What keeps installations and launches apart; given likewise.
        stop_policy: How backends are asked to end unless their specification says otherwise; given likewise.
        plugins: Plugin objects or modules to use beside the built-in ones; `load_plugins().plugins` are those that
            installed distributions offer.
        sections: Configuration sections of plugins, by name; handed to their observers and services.
        shutdown_timeout: Seconds for ending everything, in parallel, when the block is left.
        parent_guard: Process id of a guard that is this process's parent already (the runner's); otherwise a helper
            process is started that ends every backend should this process be killed.
        on_output: Called with each piece of output; must not block.
        child_descriptor_limit: Soft limit of open files for the backends; by default they inherit this process's.
        system: Stands in for the operating system in tests; see `trio_sup.testing`.

    Raises:
        Unsupported: Not Linux, or a kernel before 5.4.
        UnknownStrategy, InvalidOptions: A strategy is misnamed or misconfigured.
        PluginError: A plugin misspells a hook, or offers nonsense.

    Cancellation: ends every backend within *shutdown_timeout*, then travels on. An exception of the block is raised
        as it is, not wrapped in a group.
    """
    check_platform()
    shutdown_timeout = seconds(shutdown_timeout)
    made = plugins if isinstance(plugins, Plugins) else Plugins(plugins)
    chosen_ports, chosen_lock, chosen_stop = to_choice(ports), to_choice(install_lock), to_choice(stop_policy)
    made.make("stop policy", chosen_stop)
    hub = EventHub()
    side = SideTasks(on_stuck=lambda task: hub.publish(events.PluginStuck(task=task)))
    calls = PluginCalls(
        lambda plugin, what, took: hub.publish(events.PluginSlow(plugin=plugin, what=what, seconds=took))
    )
    hub.observe = Observers(made.observers(sections), calls, hub).tell
    services = Services(made.services(sections), hub)
    system = system or LinuxSystem(parent_guard=parent_guard, child_descriptor_limit=child_descriptor_limit)
    lifecycle = Lifecycle(
        system=system,
        hub=hub,
        side=side,
        ports=PortLeases(
            strategy=made.make("port strategy", chosen_ports),
            name=made.name_of("port strategy", chosen_ports),
            system=system,
            hub=hub,
            calls=calls,
        ),
        readiness=ReadinessGate(system=system, side=side, hub=hub),
        asking=Asking(side=side, hub=hub, calls=calls),
        install_lock=made.make("install lock", chosen_lock),
        install_lock_name=made.name_of("install lock", chosen_lock),
        on_output=on_output,
        calls=calls,
    )
    close = trio.Event()

    @trio.lowlevel.enable_ki_protection
    async def run(task_status: trio.TaskStatus[Supervisor]) -> None:
        with trio.CancelScope() as engine_scope:
            try:
                async with (
                    system.open(lambda pid, new: hub.publish(events.GuardLost(pid=pid, replacement=new))),
                    trio.open_nursery() as side_nursery,
                    trio.open_nursery() as nursery,
                ):
                    await side_nursery.start(side.run_host)
                    supervisor = Supervisor(made, lifecycle, chosen_stop, nursery, shutdown_timeout)
                    # From here on the engine ends by its own shutdown, never by the cancellation around it.
                    engine_scope.shield = True
                    services.start(supervisor, side_nursery)
                    task_status.started(supervisor)
                    try:
                        await close.wait()
                    finally:
                        with trio.CancelScope(shield=True):
                            await supervisor._shut_down()
                        hub.close()
                    side_nursery.cancel_scope.cancel(reason="the supervisor has ended")
            finally:
                calls.close()

    error: BaseException | None = None
    async with trio.open_nursery() as outer:
        supervisor = await outer.start(run)
        try:
            yield supervisor
        except BaseException as raised:
            error = raised  # raised again below, outside the nursery, so that it is not wrapped in a group
        finally:
            close.set()
    if error is not None:
        raise error
