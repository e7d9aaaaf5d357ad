"""What a stop means for slots: dependents go first, and nothing that was begun is left half done."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import attrs
import trio

from .._phases import Cause, Phase
from ..errors import StillNeeded
from ._first_of import first_of
from ._needs import Needs
from ._slot import Ending, Slot
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
        asked = {slot.key for slot in slots}
        dependents = self.needs.dependents_of(slots)
        if dependents and refuse_if_needed:
            raise StillNeeded([slot.key for slot in slots], sorted(slot.key for slot in dependents))
        leaving = [*slots, *dependents]
        for slot in leaving:
            drop_next(slot, cause)
            if slot.is_resting():
                slot.wanted.fail(partial(stopped, slot.key, cause))
            slot.leave = True
            if force:
                slot.attempt.forced.set()
        endings = {slot.key: self._ending_of(slot) for slot in leaving}
        for slot in leaving:
            why = cause if slot.key in asked else Cause.NEEDED_STOPPED
            first = [endings[each.key] for each in self.needs.first_to_go(slot, leaving)]
            if first and not force:
                self.nursery.start_soon(self._end_after, slot, first, why, asked_by, name=f"stop of {slot.key}")
            else:
                self._end(slot, why, asked_by)
        return [endings[slot.key] for slot in slots]

    @staticmethod
    def _ending_of(slot: Slot) -> Ending:
        """What finishes when *slot* has ended: for one that rests, or has survivors, that is a new round."""
        if slot.phase is Phase.STOP_FAILED:
            slot.end_again()
        elif slot.is_resting() and slot.attempt.ending.done.is_set():
            slot.attempt.ending = Ending()
        return slot.attempt.ending

    @staticmethod
    def _end(slot: Slot, cause: Cause, asked_by: str | None) -> None:
        if slot.is_resting():
            slot.rouse()
        elif slot.phase is not Phase.STOP_FAILED:
            slot.attempt.end(cause, asked_by)

    @trio.lowlevel.enable_ki_protection
    async def _end_after(self, slot: Slot, first: Sequence[Ending], cause: Cause, asked_by: str | None) -> None:
        """End *slot* once those of *first* have ended, or at once when it is forced."""
        with trio.CancelScope(shield=True):  # bounded by the ends of the others, which are
            await first_of(partial(_all_done, first), slot.attempt.forced.wait, slot.gone.wait)
        if not slot.gone.is_set() and slot.leave:
            self._end(slot, cause, asked_by)


async def _all_done(endings: Sequence[Ending]) -> None:
    for ending in endings:
        await ending.done.wait()
