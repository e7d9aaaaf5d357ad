"""Releases are installed, upgraded and deleted under the backends that run from them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar, cast

import attrs
import trio

from .. import events
from .._phases import Cause
from .._releases import AfterUpgrade, Deleted, InstallPhase, InstallProgress, OnProgress, Release, Upgraded
from .._values import ProcessKey
from ..errors import SupervisorClosed
from ..gallery._installing import Installer
from ._command import identity_of
from ._releases import Releases
from ._slot import Slot, Wanted
from ._slots import SlotTable
from ._stopping import Stopping, reports_of
from ._wishes import Wishes

T = TypeVar("T")


@attrs.define(eq=False)
class _Change:
    """One change under way; it belongs to the engine, so that what was begun is finished although its caller leaves."""

    what: str
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    done: trio.Event = attrs.field(factory=trio.Event)
    finished: bool = False
    value: Any = None
    error: Exception | None = None


@attrs.define(eq=False, kw_only=True)
class ReleaseChanges:
    """Changes releases; see the methods of `Supervisor`.

    Args:
        nursery: Where the changes run.
    """

    releases: Releases
    table: SlotTable
    wishes: Wishes
    stopping: Stopping
    nursery: trio.Nursery
    _under_way: dict[_Change, None] = attrs.field(factory=dict, init=False)
    _closed: bool = attrs.field(default=False, init=False)

    @property
    def installer(self) -> Installer:
        return self.releases.installer

    def close(self) -> None:
        """Give up every change that has not begun to touch what is installed; the others are finished."""
        self._closed = True
        for change in self._under_way:
            change.scope.cancel(reason="the supervisor ends")

    async def install(
        self,
        what: str,
        *,
        name: str | None,
        alias: str | None,
        sha256: str | None,
        force: bool,
        on_progress: OnProgress | None,
    ) -> Release:
        """See `Supervisor.install`."""

        async def install(report: OnProgress) -> Release:
            async with self.installer.staged(
                what, name=name, alias=alias, sha256=sha256, force=force, report=report
            ) as staged:
                if staged.installed is not None:
                    return staged.installed
                replaced = staged.replaces
                release = await staged.commit()
            self.releases.hub.publish(events.ReleaseInstalled(release=release, replaced=replaced))
            return release

        return await self._run(what, install, on_progress)

    async def upgrade(
        self, name: str, *, then: AfterUpgrade, force: bool, on_progress: OnProgress | None
    ) -> Upgraded | None:
        """See `Supervisor.upgrade`."""
        previous = self.releases.find(name)

        async def upgrade(report: OnProgress) -> Upgraded | None:
            newer = () if force else await self.installer.upgrades([name])
            if not force and not newer:
                return None
            instead_of = newer[0].release.metadata if newer else None
            stopped: list[ProcessKey] = []
            again: list[tuple[Slot, Wanted]] = []

            async def end_those_that_run() -> None:
                # Downloaded and verified: only now is anything stopped. Those that are to come back wait meanwhile
                # for the install lock, which is ours.
                if then == "stop":
                    stopped.extend(await self._stop(self._running_from(name), f"upgrade of {name}"))
                elif then == "restart":
                    again.extend(await self._end_for_restart(self._running_from(name), f"upgrade of {name}"))

            def tell(phase: InstallPhase) -> None:
                with suppress(Exception):  # it is in place, whoever fails to hear of it
                    report(InstallProgress(backend=release.name, phase=phase))

            with trio.CancelScope() as finishing:
                async with self.installer.staged_upgrade(name, instead_of=instead_of, report=report) as staged:
                    if staged.installed is not None:
                        return None
                    running = self._running_from(name)
                    release = await staged.commit(before=end_those_that_run)
                    # What follows ends when those that are started again are ready, or given up, or stopped.
                    finishing.shield = True
                self.releases.hub.publish(events.ReleaseInstalled(release=release, replaced=previous))
                if then != "stop":
                    tell(InstallPhase.STARTING)
                restarted, failed = await (self._roll(running, name) if then == "rolling" else self._outcomes(again))
                tell(InstallPhase.DONE)
            return Upgraded(
                release=release, previous=previous, stopped=tuple(stopped), restarted=restarted, failed=failed
            )

        return await self._run(name, upgrade, on_progress)

    async def delete(self, name: str) -> Deleted:
        """See `Supervisor.delete`."""

        async def delete(report: OnProgress) -> Deleted:
            stopped: list[ProcessKey] = []

            async def stop_those_that_run() -> None:
                # With the install lock in our hands, nothing of it is launched any more.
                stopped.extend(await self._stop(self._meaning(name), f"deletion of {name}"))

            release = await self.installer.delete(name, before=stop_those_that_run)
            self.releases.hub.publish(events.ReleaseDeleted(release=release, stopped=tuple(stopped)))
            return Deleted(release=release, stopped=tuple(stopped))

        return await self._run(name, delete, None)

    # ---- the backends that run from a release

    def _meaning(self, name: str) -> list[Slot]:
        """The slots that were started from what *name* means, by whichever of its names or by its directory."""
        names = self.installer.identity(name)
        directory = self.installer.directory(name)
        identity = identity_of(directory) if directory is not None else None

        def runs_from_it(slot: Slot) -> bool:
            command = slot.attempt.command
            return slot.spec.release in names or (
                command is not None and identity is not None and command.directory_identity == identity
            )

        return sorted((slot for slot in self.table if runs_from_it(slot)), key=lambda slot: slot.key)

    def _running_from(self, name: str) -> list[Slot]:
        return [slot for slot in self._meaning(name) if slot.is_live() and not slot.is_leaving()]

    async def _stop(self, slots: Sequence[Slot], why: str) -> list[ProcessKey]:
        """Stop *slots*, in parallel and with those that need them before them; returns the keys of all of these.

        Raises:
            StopFailed: Something of them is left.
        """
        dependents = self.stopping.needs.dependents_of(slots)
        await reports_of(self.stopping.begin(slots, Cause.ASKED, asked_by=why))
        return [slot.key for slot in (*slots, *dependents)]

    async def _end_for_restart(self, slots: Sequence[Slot], why: str) -> list[tuple[Slot, Wanted]]:
        """End what runs in *slots*, with its next start queued; those who need them stay.

        Raises:
            StopFailed: Something of them is left; the others are started again all the same.
        """
        endings = [slot.attempt.ending for slot in slots]
        again = [(slot, self.wishes.renew(slot, why)) for slot in slots]
        await reports_of(endings)
        return again

    async def _roll(
        self, slots: Sequence[Slot], name: str
    ) -> tuple[tuple[ProcessKey, ...], Mapping[ProcessKey, Exception]]:
        """Restart *slots* one after the other, each when the one before it is ready again."""
        restarted: list[ProcessKey] = []
        for slot in slots:
            if not slot.is_live() or slot.is_leaving():
                continue
            ready, failed = await self._outcomes([(slot, self.wishes.renew(slot, f"upgrade of {name}"))])
            restarted.extend(ready)
            if failed:
                return tuple(restarted), failed
        return tuple(restarted), {}

    @staticmethod
    async def _outcomes(
        starts: Sequence[tuple[Slot, Wanted]],
    ) -> tuple[tuple[ProcessKey, ...], Mapping[ProcessKey, Exception]]:
        """Wait for *starts*: which are ready, and why others are not."""
        ready: list[ProcessKey] = []
        failed: dict[ProcessKey, Exception] = {}
        for slot, wanted in starts:
            await wanted.done.wait()
            if wanted.make_error is None:
                ready.append(slot.key)
            else:
                failed[slot.key] = wanted.make_error()
        return tuple(ready), failed

    # ---- whose change it is

    async def _run(self, what: str, change: Callable[[OnProgress], Awaitable[T]], told: OnProgress | None) -> T:
        """Run *change* in a task of the engine.

        Cancellation: returns at once. The change is given up unless it has begun to touch what is installed; then it
        is finished.
        """
        if self._closed:
            raise SupervisorClosed
        await trio.lowlevel.checkpoint_if_cancelled()
        under_way = _Change(what)
        self._under_way[under_way] = None
        self.nursery.start_soon(self._host, under_way, change, told, name=f"change of {what}")
        try:
            await under_way.done.wait()
        finally:
            if not under_way.done.is_set():
                under_way.scope.cancel(reason="whoever asked for it has left")
        if under_way.error is not None:
            raise under_way.error
        if not under_way.finished:
            raise SupervisorClosed
        return cast(T, under_way.value)

    @trio.lowlevel.enable_ki_protection
    async def _host(
        self, under_way: _Change, change: Callable[[OnProgress], Awaitable[Any]], told: OnProgress | None
    ) -> None:
        def report(progress: InstallProgress) -> None:
            self.releases.tell(progress)
            if told is not None:
                told(progress)

        try:
            with under_way.scope:
                under_way.value = await change(report)
                under_way.finished = True
        except Exception as error:
            under_way.error = error
        finally:
            if not under_way.finished:
                why = str(under_way.error) if under_way.error is not None else "it was cancelled"
                self.releases.hub.publish(events.InstallEnded(what=under_way.what, why=why))
            del self._under_way[under_way]
            under_way.done.set()
