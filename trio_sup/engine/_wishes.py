"""What a start means for a slot: decided at once, without waiting, so that nothing can change meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import attrs
import trio

from .._dependencies import find_cycle
from .._gallery_errors import NoGalleries, UnknownRelease
from .._phases import Cause, Phase
from .._releases import check_release_name
from .._values import BackendSpec, ProcessKey
from ..errors import DependencyCycle, InvalidValue, SpecConflict, StoppedDuringStartup, SupervisorClosed, TrioSupError
from ..strategies import LaunchPreparation
from ._command import check, identity_of
from ._lifecycle import Lifecycle
from ._plugin_calls import PluginCalls
from ._plugins import Plugins
from ._releases import Releases
from ._slot import Attempt, Slot, Strategies, Wanted
from ._slots import SlotTable


@attrs.define(eq=False, kw_only=True)
class Wishes:
    """Turns specifications into wishes, and wishes into slots.

    Args:
        stop_policy, restart_policy: The supervisor's choices, for specifications that make none.
        groups: Names of the groups that there are.
        nursery: Where the task of each slot runs.
    """

    plugins: Plugins
    calls: PluginCalls
    table: SlotTable
    lifecycle: Lifecycle
    stop_policy: Any
    restart_policy: Any
    groups: Mapping[str, object]
    releases: Releases | None
    nursery: trio.Nursery

    @trio.lowlevel.enable_ki_protection
    def define(self, spec: BackendSpec, key: ProcessKey) -> None:
        """Note what *key* is to be started from, having checked all that can be checked without starting it."""
        self._check(spec, key)
        self._make_strategies(spec)
        self.table.define(key, spec)

    @trio.lowlevel.enable_ki_protection
    def want(self, spec: BackendSpec, key: ProcessKey, *, replace: bool = False) -> Wanted:
        """Have *spec* started in the slot *key*, or join what is under way there; see `Supervisor.start`."""
        if self.lifecycle.closing:
            raise SupervisorClosed
        self._check(spec, key)
        wanted = self._want(spec, key, replace)
        self.table.define(key, spec)
        return wanted

    def define_release(self, name: str) -> None:
        """Let *name*, if nothing is defined under it, mean a backend of the release that is called so or may be."""
        if self.releases is None or self.table.definitions_of(name) or not self._may_be_release(name, self.releases):
            return
        self.define(BackendSpec(name=name, release=name), ProcessKey(name, 0))

    @staticmethod
    def _may_be_release(name: str, releases: Releases) -> bool:
        try:
            check_release_name(name)
            if not releases.auto_install:
                releases.find(name)
        except (InvalidValue, UnknownRelease):
            return False
        return True

    def _check(self, spec: BackendSpec, key: ProcessKey) -> None:
        if not isinstance(spec, BackendSpec):
            raise InvalidValue(spec, "expected a trio_sup.BackendSpec")
        if spec.release is not None and self.releases is None:
            raise NoGalleries
        if spec.group is not None and spec.group not in self.groups:
            known = f"known are {', '.join(sorted(self.groups))}" if self.groups else "it has none"
            raise InvalidValue(spec.group, f"group: no such group is given to the supervisor; {known}")
        if spec.needs:
            # What runs may differ from what is defined by now, and either may be what is started next.
            others = [*self.table.defined.items(), *((slot.key, slot.spec) for slot in self.table)]
            cycle = find_cycle([(key, spec), *(each for each in others if each[0] != key)], of=key)
            if cycle is not None:
                raise DependencyCycle(cycle)

    def _want(self, spec: BackendSpec, key: ProcessKey, replace: bool) -> Wanted:
        slot = self.table.get(key)
        if slot is None:
            wanted = self._make_wanted(spec)
            attempt = Attempt(key, self.lifecycle.next_generation(), wanted, trio.current_time())
            self.table.add(slot := Slot(key, wanted, attempt))
            self.nursery.start_soon(self.lifecycle.fill, slot, name=f"backend {key}")
            return wanted
        if slot.is_resting():
            return self._rouse(slot, spec, replace)
        if slot.attempt.child is not None and slot.attempt.child.has_ended():
            slot.attempt.end(Cause.EXITED)
        if slot.is_leaving():
            return self._want_next(slot, spec, replace)
        differing = spec.differs_from(slot.spec)
        if differing:
            if not replace:
                raise SpecConflict(key, differing)
            check(spec)  # a command that cannot run must not end one that does
            return self._end_then_start(slot, self._make_wanted(spec), Cause.REPLACED)
        if self._is_stale(slot):
            # Those who still wait for it get the one from the new directory as well.
            next_one = self._make_wanted(spec) if slot.wanted.done.is_set() else slot.wanted
            return self._end_then_start(slot, next_one, Cause.STALE_DIRECTORY)
        return slot.wanted

    def _rouse(self, slot: Slot, spec: BackendSpec, replace: bool) -> Wanted:
        """It waits for its restart, or was given up: start it now, and count anew."""
        if slot.next is not None or slot.leave:
            return self._want_next(slot, spec, replace)
        differing = spec.differs_from(slot.spec)
        if differing and not replace and slot.phase is Phase.BACKOFF:
            raise SpecConflict(slot.key, differing)
        same_wish = not differing and slot.phase is Phase.BACKOFF
        slot.next = slot.wanted.once_more() if same_wish else self._make_wanted(spec)
        if differing:
            slot.wanted.fail(partial(stopped, slot.key, Cause.REPLACED))
        slot.forget_failures()
        slot.rouse()
        return slot.next

    def _want_next(self, slot: Slot, spec: BackendSpec, replace: bool) -> Wanted:
        """Something ends in this slot: queue what comes after it."""
        if slot.next is not None:
            differing = spec.differs_from(slot.next.spec)
            if not differing:
                return slot.next
            if not replace:
                raise SpecConflict(slot.key, differing)
            drop_next(slot, Cause.REPLACED)
        slot.next = self._make_wanted(spec)
        if not (slot.leave or slot.wanted.done.is_set() or spec.differs_from(slot.spec)):
            slot.next = slot.wanted.once_more()  # nobody asked for this end: who waits already goes on waiting
        slot.forget_failures()
        if slot.phase is Phase.STOP_FAILED:
            slot.end_again()
        return slot.next

    @staticmethod
    def _end_then_start(slot: Slot, wanted: Wanted, cause: Cause) -> Wanted:
        slot.next = wanted
        slot.forget_failures()
        slot.attempt.end(cause)
        return wanted

    @trio.lowlevel.enable_ki_protection
    def renew(self, slot: Slot, why: str) -> Wanted:
        """End what runs in *slot*, whose files are being replaced, and have it started again from the new ones.

        Those who still wait for it wait for the new one.
        """
        next_one = self._make_wanted(slot.spec) if slot.wanted.done.is_set() else slot.wanted
        next_one.held = True
        slot.forget_failures()
        slot.next = next_one
        slot.attempt.end(Cause.STALE_DIRECTORY, why)
        return next_one

    def _make_wanted(self, spec: BackendSpec) -> Wanted:
        return Wanted(spec, self._make_strategies(spec))

    def _make_strategies(self, spec: BackendSpec) -> Strategies:
        make, name_of = self.plugins.make, self.plugins.name_of
        stop = spec.stop_policy if spec.stop_policy is not None else self.stop_policy
        restart = spec.restart_policy if spec.restart_policy is not None else self.restart_policy
        return Strategies(
            probe=make("probe", spec.readiness.probe),
            liveness_probe=make("probe", spec.liveness.probe) if spec.liveness is not None else None,
            stop_policy=make("stop policy", stop),
            stop_policy_name=name_of("stop policy", stop),
            restart_policy=make("restart policy", restart),
            restart_policy_name=name_of("restart policy", restart),
            ports=self.lifecycle.ports.source(spec.ports),
            warm_ups=[(name_of("warm-up", choice), make("warm-up", choice)) for choice in spec.warm_up],
            preparations=[self._make_preparation(choice, spec) for choice in spec.launch],
        )

    def _make_preparation(self, choice: Any, spec: BackendSpec) -> tuple[str, LaunchPreparation]:
        preparation = self.plugins.make("launch preparation", choice)
        name = self.plugins.name_of("launch preparation", choice)
        try:
            self.calls.call(name, "check()", preparation.check, spec)
        except TrioSupError:
            raise
        except Exception as error:
            raise self.plugins.error_of("launch preparation", choice, f"its check() raised {error!r}") from error
        return name, preparation

    @staticmethod
    def _is_stale(slot: Slot) -> bool:
        """Whether its process was launched from a directory that has been replaced on disk since."""
        command = slot.attempt.command
        return (
            slot.attempt.child is not None
            and command is not None
            and command.directory_identity is not None
            and identity_of(command.directory) != command.directory_identity
        )

    @trio.lowlevel.enable_ki_protection
    def abandon(self, wanted: Wanted) -> None:
        """The last waiter left before it was ready."""
        if wanted.held:
            return
        for slot in self.table:
            if slot.next is wanted:
                slot.next = None
            if slot.wanted is not wanted:
                continue
            if slot.is_resting() or slot.is_ending():
                slot.leave = True  # what ends is not restarted for nobody
                slot.rouse()
            elif not slot.leave:
                slot.attempt.end(Cause.ABANDONED)


def drop_next(slot: Slot, cause: Cause) -> None:
    """Take back what was queued after the end of *slot*'s attempt; those who wait for it are told why."""
    if slot.next is not None:
        dropped, slot.next = slot.next, None
        dropped.fail(partial(stopped, slot.key, cause))


def stopped(key: ProcessKey, cause: Cause) -> StoppedDuringStartup:
    """The error for a start that something else overtook."""
    return StoppedDuringStartup(key, cause=cause.value)
