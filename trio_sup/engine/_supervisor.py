"""The public face of the engine: start, use, stop; looking is in `_looking.py`, releases in `_release_methods.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Literal

import trio

from .._options import named
from .._phases import Cause
from .._reports import Backend, StopReport, to_reason
from .._values import BackendSpec, ProcessKey, to_count, to_identifier, to_key
from ..bridge import Channel
from ..errors import CallFailed, InvalidValue
from ._ending import KILL_TIMEOUT
from ._leasing import Leasing
from ._lifecycle import Lifecycle
from ._logs import Logs
from ._looking import Looking
from ._release_changes import ReleaseChanges
from ._release_methods import ReleaseMethods
from ._slot import Slot, Wanted
from ._slots import SlotTable
from ._stopping import Stopping, reports_of
from ._wishes import Wishes


class Supervisor(Looking, ReleaseMethods):
    """Starts, watches and ends backends. Made by [`open_supervisor`][trio_sup.open_supervisor] only.

    All methods may be called from any Trio task of the same run, also from one older than the supervisor.
    """

    def __init__(
        self,
        *,
        table: SlotTable,
        lifecycle: Lifecycle,
        wishes: Wishes,
        stopping: Stopping,
        leasing: Leasing,
        changes: ReleaseChanges | None,
        logs: Logs,
        shutdown_timeout: float,
    ) -> None:
        Looking.__init__(self, table=table, records=lifecycle.records, hub=lifecycle.hub, logs=logs)
        ReleaseMethods.__init__(self, changes)
        self._lifecycle = lifecycle
        self._wishes = wishes
        self._stopping = stopping
        self._leasing = leasing
        self._shutdown_timeout = shutdown_timeout
        self._shutdown_reason: str | None = None

    @property
    def shutdown_reason(self) -> str | None:
        """Why the block is about to be left, for the exit reports; to be set before that, like the reason of a stop.

        Raises:
            InvalidValue: It is no line of at most 200 characters.
        """
        return self._shutdown_reason

    @shutdown_reason.setter
    def shutdown_reason(self, reason: str | None) -> None:
        self._shutdown_reason = to_reason(reason)

    @asynccontextmanager
    async def channel(self, key: ProcessKey | str) -> AsyncIterator[Channel]:
        """The gRPC channel to a READY backend; it is shared, and closed by the supervisor when the backend ends.

        For the length of the block the backend counts as used, as with `use`.

        Raises:
            CallFailed: There is no ready backend of that key.
        """
        slot = self._table.get(to_key(key))
        if slot is None or not slot.is_ready() or slot.attempt.channel is None:
            raise CallFailed("(channel)", "UNAVAILABLE", f"{key} is not ready")
        slot.lease()
        try:
            yield slot.attempt.channel
        finally:
            self._leasing.end(slot)

    # ---- starting

    @trio.lowlevel.enable_ki_protection
    def define(self, spec: BackendSpec, *, model: str | None = None, replicas: int = 1) -> tuple[ProcessKey, ...]:
        """Make *spec* known under ``model#0`` and so on, without starting it: `start` and `use` then take the name.

        Args:
            model: What the slots serve; the backend's name by default.
            replicas: How many of them.

        Returns:
            The keys.

        Raises:
            InvalidValue: The number or a name makes no sense.
            DependencyCycle: It needs something that needs it.
            UnknownStrategy, InvalidOptions: A strategy is misnamed or misconfigured.
            PluginError: A plugin fails to make a strategy, or to check a specification.
        """
        replicas = named("replicas", to_count)(replicas)
        if not isinstance(spec, BackendSpec):
            raise InvalidValue(spec, "expected a trio_sup.BackendSpec")
        keys = tuple(ProcessKey(spec.name if model is None else model, replica) for replica in range(replicas))
        for key in keys:
            self._wishes.define(spec, key)
        return keys

    @trio.lowlevel.enable_ki_protection
    async def start(
        self,
        spec: BackendSpec | ProcessKey | str,
        *,
        model: str | None = None,
        replica: int = 0,
        replace: bool = False,
    ) -> Backend:
        """Start *spec* in the slot ``model#replica`` and wait until it is ready.

        Callers that start the same key share one attempt. A slot that is ready already is returned as it is; a dead one
        is replaced. One whose directory was replaced on disk since its launch is ended and started anew, for those who
        still wait for it as well. One that waits for its restart is started at once, and one that was given up is tried
        anew; both count their failures from the beginning.

        If an attempt fails and the restart policy tries again, the caller goes on waiting, until it is ready or given
        up.

        Args:
            spec: What to run; or the key or name of what was defined or started before, without *model* and *replica*;
                or the name of an installed release, or of one that may be installed for it.
            model: What the slot serves; the backend's name by default.
            replica: Which of several, counted from 0.
            replace: End what runs there from another specification, and start this one.

        Returns:
            A snapshot of the ready backend.

        Raises:
            InvalidValue: The key makes no sense.
            InvalidCommand: The program cannot be executed.
            UnknownBackend: Nothing was ever defined, nor is installed, under that name.
            UnknownRelease: The release that the specification names is not installed, and is not to be.
            UnknownEntry, GalleryUnavailable, InstallFailed: It is missing, and could not be installed.
            UnknownStrategy, InvalidOptions: A strategy is misnamed or misconfigured.
            PluginError: A plugin fails to make a strategy, or to check a specification.
            DependencyCycle: It needs something that needs it.
            SpecConflict: The slot runs from another specification, and *replace* is false.
            StartFailed: It died, was not ready in time, was stopped meanwhile, got no port, was given up, …
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
                self._wishes.abandon(wanted)
        return wanted.result()

    def _want(self, spec: BackendSpec | ProcessKey | str, model: str | None, replica: int, replace: bool) -> Wanted:
        if isinstance(spec, BackendSpec):
            return self._wishes.want(spec, ProcessKey(spec.name if model is None else model, replica), replace=replace)
        if not isinstance(spec, (ProcessKey, str)):
            raise InvalidValue(spec, "expected a trio_sup.BackendSpec, or the name of one that was defined")
        if model is not None or replica:
            raise InvalidValue(spec, "a name says by itself which slot is meant: leave out model and replica")
        self._wishes.define_release(str(spec))
        keys = self._table.definitions_of(str(spec))
        if not keys:
            raise self._table.unknown(str(spec))
        return self._wishes.want(self._table.defined[keys[0]], keys[0], replace=replace)

    @asynccontextmanager
    async def use(
        self, backend: BackendSpec | ProcessKey | str, *, model: str | None = None, replica: int = 0
    ) -> AsyncIterator[Backend]:
        """Hold a lease on a ready backend for the length of the block; one that does not run is started for it.

        A leased backend is not stopped for being idle, nor to make room for another one. Of several replicas the ready
        one with the fewest leases is taken.

        Args:
            backend: The key, model or name of what was defined or started before, or of a release, as with `start`; or
                a specification, which is then defined for the slot ``model#replica``.

        Returns:
            A snapshot of the backend, as of the beginning of the block.

        Raises:
            UnknownBackend: Nothing was ever defined, nor is installed, under that name.
            SpecConflict: The slot runs from another specification.
            GivenUp: It was given up; only an explicit start tries it again.
            NoRoom: What runs leaves no room for it, and may not be stopped.
            StartFailed, StopFailed, SupervisorClosed: As with `start`.

        Cancellation: while it waits, as with `start`; the lease is given up in any case.
        """
        if isinstance(backend, BackendSpec):
            key = ProcessKey(backend.name if model is None else model, replica)
            self._leasing.refuse_conflict(key, backend)
            self._wishes.define(backend, key)
            identifier = str(key)
        elif model is not None or replica:
            raise InvalidValue(backend, "a name says by itself which slot is meant: leave out model and replica")
        else:
            identifier = to_identifier(backend)
            self._wishes.define_release(identifier)
        slot = await self._leasing.lease(identifier)
        try:
            yield slot.snapshot()
        finally:
            self._leasing.end(slot)

    # ---- stopping

    async def stop(
        self,
        identifier: ProcessKey | str,
        *,
        force: bool = False,
        dependents: Literal["stop", "refuse"] = "stop",
        reason: str | None = None,
    ) -> tuple[StopReport, ...]:
        """End what *identifier* means (see `resolve`), and wait until it is proven gone.

        Args:
            identifier: An exact key, a model, or a backend name or alias. One that means nothing is fine.
            force: SIGKILL at once, without Free and grace; also cuts short a stop that is under way.
            dependents: Backends that need it are stopped before it; or the stop is refused while there are any.
            reason: Who asks, or what for: one line of at most 200 characters, for the exit report and the event. That
                of the first stop counts.

        Returns:
            One report per key.

        Raises:
            InvalidValue: *reason* is no such line, or *identifier* neither text nor a key; nothing was stopped.
            StopFailed: Processes survived; it names them.
            StillNeeded: Others need it, and *dependents* says to refuse then; nothing was changed.

        Cancellation: returns at once; a stop once begun is finished all the same.
        """
        slots = [self._table[key] for key in self.resolve(identifier)]
        return await self._stop(slots, force, reason, dependents)

    async def stop_all(self, *, force: bool = False, reason: str | None = None) -> tuple[StopReport, ...]:
        """End everything, in parallel. Otherwise like `stop`."""
        return await self._stop(sorted(self._table, key=lambda slot: slot.key), force, reason)

    async def undefine(
        self,
        identifier: ProcessKey | str,
        *,
        force: bool = False,
        dependents: Literal["stop", "refuse"] = "stop",
        reason: str | None = None,
    ) -> tuple[StopReport, ...]:
        """Forget what *identifier* means among what is defined, and end what runs under those keys, as `stop` does.

        From then on its names mean nothing: `start` and `use` refuse them, until they are defined again. A release that
        is called so is not touched, and may be started by its name as before.

        Args:
            identifier: An exact key, a model (all its replicas), or a backend name or alias.
            force, dependents, reason: As with `stop`.

        Returns:
            One report per key that had a slot.

        Raises:
            UnknownBackend: Nothing is defined under that name.
            InvalidValue, StillNeeded: As with `stop`; nothing was changed.
            StopFailed: Processes survived; it names them. It is forgotten all the same.

        Cancellation: as with `stop`.
        """
        identifier = to_identifier(identifier)
        keys = self._table.definitions_of(identifier)
        if not keys:
            raise self._table.unknown(identifier)
        slots = [slot for slot in map(self._table.get, keys) if slot is not None]
        return await self._stop(slots, force, reason, dependents, forgotten=keys)

    @trio.lowlevel.enable_ki_protection
    async def _stop(
        self,
        slots: Iterable[Slot],
        force: bool,
        reason: str | None,
        dependents: str = "stop",
        forgotten: Iterable[ProcessKey] = (),
    ) -> tuple[StopReport, ...]:
        if dependents not in ("stop", "refuse"):
            raise InvalidValue(dependents, "dependents: expected 'stop' or 'refuse'")
        asked_by = to_reason(reason)
        await trio.lowlevel.checkpoint_if_cancelled()
        refuse = dependents == "refuse"
        endings = self._stopping.begin(slots, Cause.ASKED, asked_by=asked_by, force=force, refuse_if_needed=refuse)
        for key in forgotten:
            self._table.undefine(key)
        return await reports_of(endings)

    @trio.lowlevel.enable_ki_protection
    async def _shut_down(self) -> None:
        """End everything in parallel, within the shutdown budget."""
        self._lifecycle.endings.closing = True
        if self._release_changes is not None:
            self._release_changes.close()
        slots = list(self._table)
        self._stopping.begin(slots, Cause.SHUTDOWN, asked_by=self._shutdown_reason)
        patience = max(self._shutdown_timeout - KILL_TIMEOUT - 1, self._shutdown_timeout / 2)
        with trio.move_on_after(patience):
            for slot in slots:
                await slot.gone.wait()
        for slot in self._table:
            slot.attempt.forced.set()
        with trio.move_on_after(self._shutdown_timeout - patience + KILL_TIMEOUT):
            for slot in slots:
                await slot.gone.wait()
