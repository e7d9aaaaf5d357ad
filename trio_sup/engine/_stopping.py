"""What a stop means for slots: dependents go first, and nothing that was begun is left half done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import attrs
import trio

from .._phases import Cause, Phase
from .._reports import StopReport
from ..errors import StillNeeded, StopFailed
from ._first_of import first_of
from ._needs import Needs
from ._slot import Attempt, Ending, Slot
from ._wishes import drop_next, stopped


@attrs.frozen(kw_only=True)
class Stopping:
    """Begins stops.

    Args:
        nursery: Where those that have to wait for their dependents do so.
    """

    needs: Needs
    nursery: trio.Nursery

    @trio.lowlevel.enable_ki_protection
    def begin(
        self,
        slots: Iterable[Slot],
        cause: Cause,
        *,
        asked_by: str | None = None,
        force: bool = False,
        refuse_if_needed: bool = False,
    ) -> list[Ending]:
        """Begin the end of *slots*, and before them of all that need them.

        Args:
            asked_by: Who asked, or what for.
            force: SIGKILL at once; cuts short what is under way.
            refuse_if_needed: Change nothing if others need them.

        Returns:
            What to wait for: one ending per slot of *slots*, in that order.

        Raises:
            StillNeeded: Others need them, and it was to be refused then.
        """
        slots = list(slots)
        if refuse_if_needed and (dependents := self.needs.dependents_of(slots)):
            raise StillNeeded([slot.key for slot in slots], sorted(slot.key for slot in dependents))
        asked = {slot.key for slot in slots}
        # Those that are on their way out already count as well: what they need is stopped after them all the same.
        leaving = [*slots, *self.needs.dependents_of(slots, leaving_too=True)]
        for slot in leaving:
            drop_next(slot, cause)
            if slot.is_resting():
                slot.wanted.fail(partial(stopped, slot.key, cause))
            slot.leave = True
            if force:
                slot.attempt.forced.set()
        endings = {slot.key: _ending_of(slot) for slot in leaving}
        self._end_in_order(
            leaving, lambda slot: cause if slot.key in asked else Cause.NEEDED_STOPPED, asked_by=asked_by, at_once=force
        )
        return [endings[slot.key] for slot in slots]

    def end_attempts(self, slots: Sequence[Slot], cause: Cause) -> None:
        """End the attempts of *slots*, each after those of them that need it; what follows is for others to decide."""
        for slot in slots:
            slot.attempt.condemned = True
        self._end_in_order(slots, lambda slot: cause)

    def _end_in_order(
        self,
        leaving: Sequence[Slot],
        cause_of: Callable[[Slot], Cause],
        *,
        asked_by: str | None = None,
        at_once: bool = False,
    ) -> None:
        first_to_go = self.needs.first_to_go(leaving)
        for slot in leaving:
            first = [each.attempt.ending for each in first_to_go[slot.key]]
            end = partial(_end, slot, cause_of(slot), asked_by)
            if first and not at_once:
                self.nursery.start_soon(self._end_after, slot, slot.attempt, first, end, name=f"stop of {slot.key}")
            else:
                end()

    @trio.lowlevel.enable_ki_protection
    async def _end_after(self, slot: Slot, attempt: Attempt, first: Sequence[Ending], end: Callable[[], None]) -> None:
        """End *attempt* once those of *first* have ended, or at once when it is forced."""
        with trio.CancelScope(shield=True):  # bounded by the ends of the others, which are
            await first_of(partial(_all_done, first), attempt.forced.wait, slot.gone.wait)
        if not slot.gone.is_set() and slot.attempt is attempt:
            end()


def _ending_of(slot: Slot) -> Ending:
    """What finishes when *slot* has ended: for one that rests, or has survivors, that is a new round."""
    if slot.phase is Phase.STOP_FAILED:
        slot.end_again()
    elif slot.is_resting() and slot.attempt.ending.done.is_set():
        slot.attempt.ending = Ending()
    return slot.attempt.ending


def _end(slot: Slot, cause: Cause, asked_by: str | None) -> None:
    if slot.is_resting():
        slot.rouse()
    elif slot.phase is not Phase.STOP_FAILED:
        slot.attempt.end(cause, asked_by)


async def reports_of(endings: Sequence[Ending]) -> tuple[StopReport, ...]:
    """Wait for *endings*, and return what came of each.

    Raises:
        StopFailed: Something of them is left.
    """
    await _all_done(endings)
    reports = tuple(ending.report for ending in endings if ending.report is not None)
    if not all(report.gone for report in reports):
        raise StopFailed(reports)
    return reports


async def _all_done(endings: Sequence[Ending]) -> None:
    for ending in endings:
        await ending.done.wait()
