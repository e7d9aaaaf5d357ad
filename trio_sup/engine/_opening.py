"""Opening a supervisor: its parts are put together, and closed in order."""

from __future__ import annotations

import logging
import os
import platform
import random
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import trio
from attrs.converters import optional

from .. import events
from .._options import named
from .._room import Bounds
from .._units import byte_count, seconds
from .._values import GROUP_RESTARTS, GroupRestart, to_choice, to_count
from ..errors import InvalidValue, SignificantEnded, Unsupported
from ..gallery._settings import Galleries
from ..strategies import GallerySource
from ._admission import Admission
from ._asking import Asking
from ._contained_source import ContainedSource
from ._ending import Endings
from ._event_stream import EventHub
from ._gallery_parts import detected, lock_choice, make_installer
from ._groups import Groups
from ._launching import Launching
from ._leasing import Leasing
from ._lifecycle import Lifecycle
from ._linux_system import LinuxSystem
from ._log_files import LogFiles
from ._logs import Logs
from ._moves import Moves
from ._needs import Needs
from ._observers import Observers
from ._output import Output
from ._plugin_calls import PluginCalls
from ._plugins import Plugins
from ._port_lease import PortLeases
from ._readiness import ReadinessGate
from ._records import Records
from ._release_changes import ReleaseChanges
from ._releases import Releases
from ._restarting import Restarting
from ._services import Services
from ._side_tasks import SideTasks
from ._slot import Slot
from ._slots import SlotTable
from ._stopping import Stopping
from ._supervisor import Supervisor
from ._system import System
from ._warming import WarmingUp
from ._wishes import Wishes

_gallery_log = logging.getLogger("trio_sup.gallery")

OLDEST_KERNEL = (5, 4)
"""The first with pidfd waiting and everything else the engine relies on."""


def check_platform() -> None:
    """Refuse platforms, and processes, that the engine cannot work on.

    Raises:
        Unsupported: Not Linux, or a kernel that is too old, or SIGCHLD is ignored.
    """
    if sys.platform != "linux":
        raise Unsupported(f"trio-sup supervises processes on Linux only; this is {sys.platform}")
    release = platform.release()
    match = re.match(r"(\d+)\.(\d+)", release)
    if match and (int(match[1]), int(match[2])) < OLDEST_KERNEL:
        raise Unsupported(f"trio-sup needs Linux 5.4 or newer; this is {release}")
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        raise Unsupported(
            "SIGCHLD is ignored in this process, perhaps since it was started so: the kernel then throws away how "
            "children end. Put it right with signal.signal(signal.SIGCHLD, signal.SIG_DFL)"
        )


@asynccontextmanager
async def open_supervisor(
    *,
    state_dir: str | os.PathLike[str] | None = None,
    ports: Any = "affinity",
    install_lock: Any = "file",
    galleries: Galleries | None = None,
    stop_policy: Any = "free-then-terminate",
    restart_policy: Any = "never",
    groups: Mapping[str, GroupRestart] = MappingProxyType({}),
    max_running: int | None = None,
    memory_budget: int | str | None = None,
    plugins: Iterable[object] | Plugins = (),
    sections: Mapping[str, object] = MappingProxyType({}),
    shutdown_timeout: float = 25.0,
    parent_guard: int | None = None,
    on_output: Callable[[Output], None] | None = None,
    log_dir: str | os.PathLike[str] | None = None,
    child_descriptor_limit: int | None = None,
    system: System | None = None,
) -> AsyncIterator[Supervisor]:
    """Open a supervisor for the length of the block; at its end every backend is ended.

    Args:
        state_dir: Directory for what is to be remembered when this supervisor has ended: how backends ended, and
            which processes the next supervisor there must end if this one is killed together with its guard. It is
            made if need be. By default nothing is.
        ports: Which port a backend gets unless its specification says otherwise: a name, a table or
            [`Choice`][trio_sup.Choice] with options, or the object itself.
        install_lock: What keeps installations and launches apart; given likewise. The locks of ``"file"`` are in the
            directory of the releases, if there is one.
        galleries: Where releases are kept, and where they come from; None for a supervisor that has none.
        stop_policy: How backends are asked to end unless their specification says otherwise; given likewise.
        restart_policy: What follows when one ends although nobody asked for it, unless its specification says
            otherwise; given likewise.
        groups: For each group that specifications may name, who is restarted when a member of it is:
            ``"one-for-one"`` (nobody else), ``"one-for-all"`` or ``"rest-for-one"`` (those that were started later).
        max_running: How many backends may have a process at once. To make room, those that were used longest ago are
            stopped, unless they are leased, pinned, starting, or needed by others.
        memory_budget: Bytes, or text such as ``"20GiB"``, that the trees of all backends may use together, likewise.
            What runs is measured; what is not started yet counts with the `memory` of its specification.
        plugins: Plugin objects or modules to use beside the built-in ones; `load_plugins().plugins` are those that
            installed distributions offer.
        sections: Configuration sections of plugins, by name; handed to their observers and services.
        shutdown_timeout: Seconds for ending everything, in parallel, when the block is left.
        parent_guard: Process id of a guard that is this process's parent already (the runner's); otherwise a helper
            process is started that ends every backend should this process be killed.
        on_output: Called with each piece of output; must not block.
        log_dir: Directory for log files, one of its own; it is made if need be. `BackendSpec.logs` says how much is
            kept there.
        child_descriptor_limit: Soft limit of open files for the backends; by default they inherit this process's.
        system: Stands in for the operating system in tests; see `trio_sup.testing`.

    Raises:
        Unsupported: Not Linux, or a kernel before 5.4, or SIGCHLD is ignored.
        InvalidValue: An option makes no sense.
        UnknownStrategy, InvalidOptions: A strategy is misnamed or misconfigured.
        PluginError: A plugin misspells a hook, or offers nonsense.
        OSError: The directory of the releases cannot be used.
        StateDirectoryInUse: Another supervisor works in *state_dir*.
        ConfigError: *state_dir* cannot be used.
        SignificantEnded: A significant backend ended for good; the block was cancelled then.

    Cancellation: ends every backend within *shutdown_timeout*, then travels on. An exception of the block is raised
        as it is, not wrapped in a group.
    """
    check_platform()
    shutdown_timeout = named("shutdown_timeout", seconds)(shutdown_timeout)
    made = plugins if isinstance(plugins, Plugins) else Plugins(plugins)
    policies = {"stop_policy": to_choice(stop_policy), "restart_policy": to_choice(restart_policy)}
    made.make("stop policy", policies["stop_policy"])
    made.make("restart policy", policies["restart_policy"])
    hub = EventHub()
    records = Records(Path(state_dir) if state_dir is not None else None, hub)
    system = system or LinuxSystem(
        parent_guard=parent_guard, child_descriptor_limit=child_descriptor_limit, trees=records.trees
    )
    calls = PluginCalls(
        lambda plugin, what, took: hub.publish(events.PluginSlow(plugin=plugin, what=what, seconds=took))
    )
    if galleries is not None:
        galleries = await detected(galleries)
    log_files = LogFiles(Path(log_dir), hub.publish) if log_dir is not None else None
    logs = Logs(log_files)
    engine = _Engine(
        made,
        system,
        hub,
        calls,
        records,
        logs,
        ports=to_choice(ports),
        install_lock=lock_choice(to_choice(install_lock), galleries),
        galleries=galleries,
        groups=_to_groups(groups),
        max_running=named("max_running", optional(to_count))(max_running),
        memory_budget=named("memory_budget", optional(byte_count))(memory_budget),
        on_output=on_output,
    )
    hub.observe = Observers(made.observers(sections), calls, hub).tell
    services = Services(made.services(sections), hub)
    await records.open()
    close = trio.Event()

    @trio.lowlevel.enable_ki_protection
    async def run(task_status: trio.TaskStatus[Supervisor]) -> None:
        with trio.CancelScope() as engine_scope:
            try:
                async with (
                    records.kept(),
                    system.open(lambda pid, new: hub.publish(events.GuardLost(pid=pid, replacement=new))),
                    trio.open_nursery() as side_nursery,
                    trio.open_nursery() as nursery,
                ):
                    await side_nursery.start(engine.side.run_host)
                    await engine.repair_releases()
                    supervisor = engine.supervisor(nursery, shutdown_timeout, **policies)
                    # A task that is cancelled already would not be handed over: its shield would keep it for ever.
                    await trio.lowlevel.checkpoint_if_cancelled()
                    # From here on the engine ends by its own shutdown, never by the cancellation around it.
                    engine_scope.shield = True
                    if log_files is not None:
                        side_nursery.start_soon(log_files.run, name="log files")
                    if engine.releases is not None:
                        side_nursery.start_soon(engine.releases.sweep_what_is_freed, name="freed releases")
                    services.start(supervisor, side_nursery)
                    task_status.started(supervisor)
                    try:
                        await close.wait()
                    finally:
                        with trio.CancelScope(shield=True):
                            await supervisor._shut_down()
                            if log_files is not None:
                                await log_files.finish()
                            if engine.releases is not None:
                                await engine.releases.finish()
                        logs.close()
                        hub.close()
                    side_nursery.cancel_scope.cancel(reason="the supervisor has ended")
            finally:
                calls.close()

    error: BaseException | None = None
    async with trio.open_nursery() as outer:
        supervisor = await outer.start(run)
        try:
            with engine.block_scope:
                yield supervisor
        except BaseException as raised:
            error = raised  # raised again below, outside the nursery, so that it is not wrapped in a group
        finally:
            close.set()
    if error is not None:
        raise error
    if engine.significant_end is not None:
        raise engine.significant_end


def _to_groups(value: Mapping[str, GroupRestart]) -> Mapping[str, GroupRestart]:
    for name, how in value.items():
        if how not in GROUP_RESTARTS:
            raise InvalidValue(how, f"groups: {name}: expected one of {', '.join(map(repr, GROUP_RESTARTS))}")
    return dict(value)


class _Engine:
    """The parts of one supervisor, put together.

    Attributes:
        block_scope: Around the user's block; cancelled when a significant backend has ended.
        significant_end: Why it was.
        releases: None without galleries.
    """

    def __init__(
        self,
        plugins: Plugins,
        system: System,
        hub: EventHub,
        calls: PluginCalls,
        records: Records,
        logs: Logs,
        *,
        ports: Any,
        install_lock: Any,
        galleries: Galleries | None,
        groups: Mapping[str, GroupRestart],
        max_running: int | None,
        memory_budget: int | None,
        on_output: Callable[[Output], None] | None,
    ) -> None:
        self.block_scope = trio.CancelScope()
        self.significant_end: SignificantEnded | None = None
        self.side = SideTasks(on_stuck=lambda task: hub.publish(events.PluginStuck(task=task)))
        self._plugins, self._calls, self._groups, self._logs = plugins, calls, groups, logs
        self._table = SlotTable()
        self.releases = self._make_releases(galleries, install_lock, hub) if galleries is not None else None
        moves = Moves(hub=hub, table=self._table)
        leases = PortLeases(
            plugins=plugins,
            default=ports,
            system=system,
            hub=hub,
            calls=calls,
        )
        self._needs = Needs(
            table=self._table,
            start=lambda key: self._wishes.want(self._table.defined[key], key),
            abandon=lambda wanted: self._wishes.abandon(wanted),
        )
        self._lifecycle = Lifecycle(
            hub=hub,
            table=self._table,
            moves=moves,
            ports=leases,
            needs=self._needs,
            groups=Groups(
                table=self._table,
                needs=self._needs,
                restarts=groups,
                end_attempts=lambda slots, cause: self._stopping.end_attempts(slots, cause),
            ),
            admission=Admission(
                table=self._table,
                needs=self._needs,
                bounds=Bounds(max_running=max_running, memory_budget=memory_budget),
            ),
            launching=Launching(
                system=system,
                moves=moves,
                side=self.side,
                ports=leases,
                install_lock=plugins.make("install lock", install_lock),
                install_lock_name=plugins.name_of("install lock", install_lock),
                on_output=on_output,
                logs=logs,
                calls=calls,
                releases=self.releases,
            ),
            readiness=ReadinessGate(system=system, side=self.side, hub=hub),
            warming=WarmingUp(side=self.side, calls=calls),
            endings=Endings(moves=moves, asking=Asking(side=self.side, hub=hub, calls=calls)),
            restarting=Restarting(hub=hub, calls=calls, rng=random.Random()),
            records=records,
            on_significant_end=self._end_with,
        )

    def _make_releases(self, galleries: Galleries, install_lock: Any, hub: EventHub) -> Releases:
        def contain(source: GallerySource, name: str) -> GallerySource:
            return ContainedSource(source, name, self.side, self._calls)

        installer = make_installer(galleries, self._plugins, install_lock, contain)
        return Releases(installer=installer, auto_install=galleries.auto_install, hub=hub)

    async def repair_releases(self) -> None:
        """Finish or take back what an earlier process left half done among the releases, if that may be done here."""
        if self.releases is None:
            return
        try:
            await self.releases.installer.repair()
        except OSError as error:
            # What is whole can be run all the same.
            _gallery_log.warning("the releases cannot be brought in order: %s", error)

    def supervisor(
        self, nursery: trio.Nursery, shutdown_timeout: float, *, stop_policy: Any, restart_policy: Any
    ) -> Supervisor:
        """The public face; the tasks of its slots run in *nursery*."""
        self._wishes = Wishes(
            plugins=self._plugins,
            calls=self._calls,
            table=self._table,
            lifecycle=self._lifecycle,
            stop_policy=stop_policy,
            restart_policy=restart_policy,
            groups=self._groups,
            releases=self.releases,
            nursery=nursery,
        )
        self._stopping = Stopping(needs=self._needs, nursery=nursery)
        return Supervisor(
            table=self._table,
            lifecycle=self._lifecycle,
            wishes=self._wishes,
            stopping=self._stopping,
            leasing=Leasing(table=self._table, wishes=self._wishes, lifecycle=self._lifecycle),
            changes=self._make_changes(nursery),
            logs=self._logs,
            shutdown_timeout=shutdown_timeout,
        )

    def _make_changes(self, nursery: trio.Nursery) -> ReleaseChanges | None:
        if self.releases is None:
            return None
        return ReleaseChanges(
            releases=self.releases, table=self._table, wishes=self._wishes, stopping=self._stopping, nursery=nursery
        )

    def _end_with(self, slot: Slot, why: str) -> None:
        if self.significant_end is None:
            self.significant_end = SignificantEnded(slot.key, why, slot.attempt.report)
            self.block_scope.cancel(reason=f"{slot.key} has ended for good")
