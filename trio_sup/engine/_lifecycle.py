"""The life of a slot: one task that runs attempt after attempt until nobody wants another.

The task is immune to the cancellation of whatever surrounds it; only `Attempt.end` ends an attempt. So there is no
path from a launched process to an abandoned one: what follows the life scope always runs, and always within bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import attrs
import trio

from .. import events
from .._gallery_errors import UnknownEntry, UnknownRelease
from .._phases import Cause, Phase
from .._reports import StopReport
from ..errors import GivenUp, InvalidCommand, InvalidValue, NeedFailed, NoRoom, StartFailed, TrioSupError
from ..strategies import GiveUp, RestartAfter
from ._admission import Admission
from ._ending import Endings
from ._event_stream import EventHub
from ._groups import Groups
from ._health import HealthWatch
from ._launching import Launching
from ._moves import Moves
from ._needs import Needs
from ._outcome import died_of_taken_port, exit_report, why_ended
from ._port_lease import PortLeases
from ._progress_watch import extended_by_progress
from ._readiness import ReadinessGate
from ._records import Records
from ._restarting import Decision, Restarting
from ._slot import Attempt, Slot
from ._slots import SlotTable
from ._warming import WarmingUp

MOST_COLLISIONS = 2
"""Times that a start is tried again because its port was taken: without the placeholder, then on another port."""

_OF_AN_ATTEMPT = (Phase.WAITING, Phase.STARTING, Phase.READY, Phase.UNREADY)

_NOT_RETRIED = (InvalidCommand, InvalidValue, NoRoom, UnknownRelease, UnknownEntry)
"""Failures of a first start that its caller is to hear of at once: waiting would not mend them."""


@attrs.frozen
class _ComeBack:
    """It is started again as soon as what it waits for lets it: it has not failed itself."""


@attrs.define(eq=False, kw_only=True)
class Lifecycle:
    """What the tasks of all slots share.

    Attributes:
        on_significant_end: Told of a significant backend that has ended for good, and why.
    """

    hub: EventHub
    table: SlotTable
    moves: Moves
    ports: PortLeases
    needs: Needs
    groups: Groups
    admission: Admission
    launching: Launching
    readiness: ReadinessGate
    warming: WarmingUp
    endings: Endings
    restarting: Restarting
    records: Records
    on_significant_end: Callable[[Slot, str], None]
    health: HealthWatch = attrs.field(init=False)
    _generation: int = 0

    def __attrs_post_init__(self) -> None:
        self.health = HealthWatch(
            gate=self.readiness, out_of_rotation=self._out_of_rotation, back_in_rotation=self._back_in_rotation
        )

    @property
    def closing(self) -> bool:
        return self.endings.closing

    def next_generation(self) -> int:
        self._generation += 1
        return self._generation

    @trio.lowlevel.enable_ki_protection
    async def fill(self, slot: Slot) -> None:
        """Run attempts until none is wanted; then forget the slot, with no await after the decision."""
        with trio.CancelScope(shield=True):
            while True:
                await self._run(slot)
                await self._follow(slot)
                if slot.next is None:
                    break
                self._finish_stop(slot)
                slot.wanted, slot.next = slot.next, None
                slot.leave = False
                slot.waits_for = None  # each attempt tells anew what it waits for
                attempt = Attempt(slot.key, self.next_generation(), slot.wanted, trio.current_time())
                self.table.begin(slot, attempt)
        self._forget(slot)

    def _forget(self, slot: Slot) -> None:
        self.table.remove(slot)
        self.needs.note_end_of(slot)
        slot.gone.set()
        slot.admitted = slot.returning = False
        ending = slot.attempt.ending
        if ending.report is not None and not ending.report.gone:
            self.ports.drop_placeholder(slot)
            self.table.changed(slot)
            return  # the supervisor ends before the survivors do: neither slot nor port can be called free
        self.ports.give_back(slot)
        self.moves.make(slot, Phase.GONE, partial(events.BackendGone, report=slot.attempt.report))
        self._finish_stop(slot)

    @staticmethod
    def _finish_stop(slot: Slot) -> None:
        """Tell those who stopped it while it rested, if any, that nothing is left of its last attempt."""
        attempt = slot.attempt
        if not attempt.ending.done.is_set():
            attempt.ending.finish(
                StopReport(key=slot.key, generation=attempt.generation, gone=True, report=attempt.report)
            )

    # ---- one attempt

    async def _run(self, slot: Slot) -> None:
        attempt = slot.attempt
        slot.why = None
        async with trio.open_nursery() as pumps:
            try:
                with attempt.life_scope:
                    await self._live(slot, attempt, pumps)
            except TrioSupError as error:
                attempt.error = error
                if attempt.child is not None:
                    attempt.cause = attempt.cause or Cause.WARM_UP_FAILED
            except Exception as crash:
                attempt.crash = crash
                attempt.cause = Cause.INTERNAL_ERROR
            if slot.phase not in _OF_AN_ATTEMPT:
                self.moves.wait_for(slot, "its start")  # it failed before it had to wait for anything
            phase, began_at = slot.phase, trio.current_time()
            attempt.leave_rotation(began_at)
            if attempt.cause is not None and (not attempt.cause.asked or attempt.cause.failed_elsewhere):
                self.needs.end_bound_to(slot)
            ending, killed = await self.endings.end(slot, attempt)
            report_now = partial(exit_report, attempt, phase, began_at, killed)
            ending = await self.endings.outlive(slot, attempt, report_now, ending)
            pumps.cancel_scope.cancel(reason="the tree has ended")
        # The pumps have made their last read: what follows sees all that was written.
        if slot.wanted.port_collisions < MOST_COLLISIONS and died_of_taken_port(attempt, phase):
            attempt.cause = Cause.PORT_TAKEN
        if attempt.let_go_of_release is not None:
            attempt.let_go_of_release()
        await self.endings.conclude(slot, attempt, report_now(ending) if attempt.child is not None else None, ending)
        if attempt.report is not None:
            self.records.keep(attempt.report)

    async def _live(self, slot: Slot, attempt: Attempt, pumps: trio.Nursery) -> None:
        await self._launch(slot, attempt, pumps)
        assert attempt.launched_at is not None
        with trio.CancelScope(deadline=attempt.launched_at + attempt.spec.readiness.timeout) as ready_scope:
            async with extended_by_progress(attempt, ready_scope):
                await self.readiness.passed(slot, attempt)
        if ready_scope.cancelled_caught:
            attempt.cause = attempt.cause or Cause.DEADLINE
            attempt.timed_out_after = round(ready_scope.deadline - attempt.launched_at, 3)
            if attempt.awaits_listener:
                attempt.last_health_error = f"nothing listened on port {slot.port}"
            return
        await self.warming.run(slot, attempt)
        assert attempt.child is not None
        if attempt.cause is None and not attempt.child.has_ended():
            self._ready(slot, attempt)
            await self._stay_ready(slot, attempt)
        await trio.sleep_forever()

    async def _launch(self, slot: Slot, attempt: Attempt, pumps: trio.Nursery) -> None:
        """Wait for what it needs, for its group and for room; launch it once it has all of that at the same time."""
        waits_for = partial(self.moves.wait_for, slot)
        was_admitted = slot.admitted
        while True:
            await self.needs.met(slot, waits_for)
            await self.groups.turn(slot, waits_for)
            await self.admission.admit(slot, waits_for)
            if await self.launching.launch(slot, attempt, pumps, partial(self._may_start, slot)):
                return
            # One of them has failed again meanwhile, and may want the very room that this one would keep.
            slot.admitted = was_admitted
            self.table.changes.happened()

    def _may_start(self, slot: Slot) -> bool:
        return self.needs.are_met(slot) and self.groups.is_turn(slot)

    def _ready(self, slot: Slot, attempt: Attempt) -> None:
        assert attempt.launched_at is not None
        attempt.ready_at = slot.last_used_at = trio.current_time()
        attempt.start_seconds = attempt.ready_at - attempt.launched_at
        slot.returning = False
        self._tell_ready(slot)

    def _tell_ready(self, slot: Slot) -> None:
        attempt, address = slot.attempt, slot.address()
        assert attempt.child is not None
        assert attempt.start_seconds is not None
        assert address is not None
        slot.why = None
        attempt.enter_rotation(trio.current_time())
        self.moves.make(
            slot,
            Phase.READY,
            partial(events.BackendReady, address=address, pid=attempt.child.pid, start_seconds=attempt.start_seconds),
        )
        slot.wanted.succeed(slot)

    async def _stay_ready(self, slot: Slot, attempt: Attempt) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.health.run, slot, attempt, name=f"health of {slot.key}")
            if attempt.spec.idle_timeout is not None:
                nursery.start_soon(
                    self._end_when_idle, slot, attempt.spec.idle_timeout, name=f"idle time of {slot.key}"
                )

    @trio.lowlevel.enable_ki_protection
    async def _end_when_idle(self, slot: Slot, idle_timeout: float) -> None:
        while True:
            due = slot.last_used_at + idle_timeout
            if slot.leases:
                await slot.unleased.wait()
            elif trio.current_time() < due:
                await trio.sleep_until(due)
            elif self.needs.has_live_dependents(slot):
                await self.table.changes.next()
            else:
                slot.attempt.end(Cause.IDLE)
                return

    def _out_of_rotation(self, slot: Slot, why: str) -> None:
        slot.why = why
        slot.attempt.leave_rotation(trio.current_time())
        slot.wanted = slot.wanted.once_more()  # whoever asks from now on waits until it is back
        self.moves.make(slot, Phase.UNREADY, partial(events.BackendUnready, why=why))

    def _back_in_rotation(self, slot: Slot) -> None:
        self._tell_ready(slot)

    # ---- what follows

    async def _follow(self, slot: Slot) -> None:
        """Leave in `slot.next` what is to be run next; nothing if the slot is to be gone. May take a long rest."""
        attempt = slot.attempt
        slot.returns_to_needs = False
        if slot.next is not None:
            self._tell_exit(slot)
            if slot.next is not slot.wanted:
                self._fail(slot)
            return
        if attempt.cause is Cause.PORT_TAKEN and not (slot.leave or self.closing):
            self._try_another_way(slot)
            return
        decision = self._decide(slot, attempt)
        if isinstance(decision, GiveUp):
            await self._give_up(slot, decision.why)
        elif isinstance(decision, RestartAfter):
            await self._back_off(slot, decision.delay)
        elif isinstance(decision, _ComeBack):
            self._come_back(slot)
        else:
            self._fail(slot)
            told_to_caller = isinstance(attempt.error, _NOT_RETRIED)
            if attempt.spec.significant and not (
                slot.leave or self.closing or told_to_caller or self._was_asked(attempt)
            ):
                self.on_significant_end(slot, why_ended(attempt))

    def _decide(self, slot: Slot, attempt: Attempt) -> Decision | _ComeBack:
        if slot.leave or self.closing or attempt.ending.report is None or not attempt.ending.report.gone:
            return None
        if slot.doomed is not None:
            return GiveUp(slot.doomed)
        if attempt.cause is not None and attempt.cause.failed_elsewhere:
            return _ComeBack()
        if self._was_asked(attempt):
            return None
        if isinstance(attempt.error, NeedFailed):
            # No time helps here: it is for whoever starts the needed one again.
            return GiveUp(why_ended(attempt)) if slot.wanted.held else None
        if isinstance(attempt.error, _NOT_RETRIED) and not slot.wanted.held:
            return None
        return self.restarting.decide(slot, attempt)

    @staticmethod
    def _was_asked(attempt: Attempt) -> bool:
        return attempt.cause is not None and attempt.cause.asked

    def _try_another_way(self, slot: Slot) -> None:
        # A server that sets no SO_REUSEADDR: the placeholder was in its way, or else what lingers of old connections.
        # So once more without the placeholder, and then on another port.
        if slot.wanted.port_collisions:
            self.ports.give_back(slot)
        self.ports.drop_placeholder(slot)
        slot.wanted.port_collisions += 1
        slot.next = slot.wanted
        self._tell_exit(slot)

    def _come_back(self, slot: Slot) -> None:
        self._tell_exit(slot)
        slot.returns_to_needs = slot.attempt.cause is Cause.NEEDED_FAILED
        slot.next = slot.wanted.once_more()

    async def _back_off(self, slot: Slot, delay: float) -> None:
        attempt = slot.attempt
        self.groups.restart_with(slot)
        slot.wanted = slot.wanted.once_more()  # whoever asks from now on waits for the next attempt
        slot.restarts += 1
        slot.due_at, slot.why = trio.current_time() + delay, why_ended(attempt)
        event = partial(
            events.BackendBackoff, delay=delay, failures=len(slot.ends), why=slot.why, report=attempt.report
        )
        self.moves.make(slot, Phase.BACKOFF, event)
        await self._rest(slot, delay)
        slot.due_at = None
        if slot.next is None and not slot.leave:
            if slot.doomed is not None:
                await self._give_up(slot, slot.doomed)
                return
            slot.next = slot.wanted
        if slot.next is not slot.wanted:
            self._fail(slot)

    async def _give_up(self, slot: Slot, why: str) -> None:
        attempt = slot.attempt
        slot.why = why
        slot.admitted = slot.returning = False
        self.ports.give_back(slot)
        slot.wanted.fail(self.given_up(slot))
        self.needs.note_end_of(slot)
        self.moves.make(slot, Phase.GIVEN_UP, partial(events.BackendGivenUp, why=why, report=attempt.report))
        self.groups.give_up_with(slot, why)
        if attempt.spec.significant:
            self.on_significant_end(slot, why)
        await self._rest(slot, math.inf)

    def given_up(self, slot: Slot) -> Callable[[], GivenUp]:
        """Makes the error for those who want a slot that was given up."""
        attempt = slot.attempt
        last = attempt.failure() if attempt.failure is not None and attempt.ready_at is None else None
        report = attempt.report
        return partial(
            GivenUp,
            slot.key,
            attempt.generation,
            elapsed=report.lived if report else 0.0,
            report=report,
            stderr_tail=report.stderr_tail if report else "",
            last_health_error=attempt.last_health_error,
            why=slot.why or "",
            last=last if isinstance(last, StartFailed) else None,
        )

    async def _rest(self, slot: Slot, seconds: float) -> None:
        """Wait until something is asked of *slot*, at most *seconds*."""
        slot.roused = trio.Event()
        with trio.move_on_after(seconds):
            await slot.roused.wait()

    @staticmethod
    def _fail(slot: Slot) -> None:
        """Tell those who still wait for what was wanted of the attempt that has ended."""
        assert slot.attempt.failure is not None
        slot.wanted.fail(slot.attempt.failure)

    def _tell_exit(self, slot: Slot) -> None:
        report = slot.attempt.report
        if report is not None:
            self.hub.publish(events.BackendExited(key=slot.key, generation=slot.attempt.generation, report=report))
