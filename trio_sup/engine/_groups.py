"""Groups: who is restarted together with one that failed, and in which order (the meanings of Erlang/OTP)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs

from .._phases import Cause, Phase
from .._values import GroupRestart
from ._needs import Needs
from ._slot import Slot
from ._slots import SlotTable

_ENDING = (Phase.STOPPING, Phase.STOP_FAILED)


@attrs.frozen(kw_only=True)
class Groups:
    """The groups of one supervisor.

    Args:
        restarts: How each group is restarted, by name.

    Source: the restart strategies of Erlang/OTP supervisors; the order of a group is that in which its
        members were first defined or started.
    """

    table: SlotTable
    needs: Needs
    restarts: Mapping[str, GroupRestart]

    def restart_with(self, failed: Slot) -> None:
        """*failed* is going to be restarted: end those that are restarted with it."""
        affected = self._affected(failed)
        if not affected:
            return
        failed.returning = True
        for slot in affected:
            slot.returning = True
            if slot.is_live():
                slot.attempt.end(Cause.SIBLING_FAILED)

    def give_up_with(self, failed: Slot, why: str) -> None:
        """*failed* has been given up: so are those that would have been restarted with it."""
        for slot in self._affected(failed):
            slot.doomed = f"{failed.key} of its group was given up: {why}"
            if slot.is_resting():
                slot.rouse()
            else:
                slot.attempt.end(Cause.SIBLING_FAILED)

    async def turn(self, slot: Slot, waits_for: Callable[[str], None]) -> None:
        """Wait, if *slot* returns together with its group, until it is its turn.

        Cancellation: leaves nothing behind.
        """
        while slot.returning and (before := self._before(slot)) is not None:
            waits_for(f"{before.key} of its group")
            await self.table.changes.next()

    def _before(self, slot: Slot) -> Slot | None:
        """One of its group that must have ended, or be ready again, before *slot* is started."""
        for other in self._others(slot):
            if other.phase in _ENDING:
                return other
            if other.returning and other.ordinal < slot.ordinal and not self.needs.depends(other, slot):
                return other
        return None

    def _affected(self, slot: Slot) -> Sequence[Slot]:
        how = self.restarts.get(slot.spec.group or "", "one-for-one")
        if how == "one-for-one":
            return ()
        others = [each for each in self._others(slot) if each.phase is not Phase.GIVEN_UP and not each.leave]
        return others if how == "one-for-all" else [each for each in others if each.ordinal > slot.ordinal]

    def _others(self, slot: Slot) -> Sequence[Slot]:
        group = slot.spec.group
        return [each for each in self.table if group and each is not slot and each.spec.group == group]
