"""Groups: who is restarted together with one that failed, and in which order (the meanings of Erlang/OTP)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs

from .._phases import Cause, Phase
from .._values import GroupRestart, ProcessKey
from ._needs import Needs
from ._slot import Slot
from ._slots import SlotTable

_ENDING = (Phase.STOPPING, Phase.STOP_FAILED)


@attrs.frozen(kw_only=True)
class Groups:
    """The groups of one supervisor.

    The order of a group is that in which its members were first defined or started, but each comes after those of the
    group that it needs.

    Args:
        restarts: How each group is restarted, by name.
        end_attempts: Ends the attempts of slots, each after those of them that need it.

    Source: the restart strategies of Erlang/OTP supervisors.
    """

    table: SlotTable
    needs: Needs
    restarts: Mapping[str, GroupRestart]
    end_attempts: Callable[[Sequence[Slot], Cause], None]

    def restart_with(self, failed: Slot) -> None:
        """*failed* is going to be restarted: end those that are restarted with it."""
        affected = self._affected(failed)
        if not affected:
            return
        for slot in [failed, *affected]:
            slot.returning = True
        self.end_attempts([slot for slot in affected if slot.is_live()], Cause.SIBLING_FAILED)

    def give_up_with(self, failed: Slot, why: str) -> None:
        """*failed* has been given up: so are those that would have been restarted with it."""
        affected = [slot for slot in self._affected(failed) if slot.doomed is None and slot.next is None]
        for slot in affected:
            slot.doomed = f"{failed.key} of its group was given up: {why}"
            if slot.is_resting():
                slot.rouse()
        self.end_attempts([slot for slot in affected if not slot.is_resting()], Cause.SIBLING_FAILED)

    async def turn(self, slot: Slot, waits_for: Callable[[str], None]) -> None:
        """Wait, if *slot* returns together with its group, until it is its turn.

        Cancellation: leaves nothing behind.
        """
        while (before := self._before(slot)) is not None:
            waits_for(f"{before.key} of its group")
            await self.table.changes.next(str(before.key))

    def is_turn(self, slot: Slot) -> bool:
        """Whether nothing of its group is to come before *slot*."""
        return self._before(slot) is None

    def _before(self, slot: Slot) -> Slot | None:
        """One of its group that must have ended, or be ready again, before *slot* is started."""
        if not slot.returning:
            return None
        others = self._others(slot)
        for other in others:
            if other.phase in _ENDING or (other.is_live() and other.attempt.condemned):
                return other
        earlier = self._places(slot)
        return next((each for each in others if each.returning and earlier[each.key] < earlier[slot.key]), None)

    def _affected(self, slot: Slot) -> Sequence[Slot]:
        how = self.restarts.get(slot.spec.group or "", "one-for-one")
        if how == "one-for-one":
            return ()
        others = [each for each in self._others(slot) if each.phase is not Phase.GIVEN_UP and not each.leave]
        if how == "one-for-all":
            return others
        places = self._places(slot)
        return [each for each in others if places[each.key] > places[slot.key]]

    def _places(self, slot: Slot) -> Mapping[ProcessKey, int]:
        """The place of each member of the group of *slot* in its order."""
        members = sorted([slot, *self._others(slot)], key=lambda each: each.ordinal)
        reached = {member.key: self.needs.reached_from(member) for member in members}
        places: dict[ProcessKey, int] = {}
        for member in members:
            # All that it needs at all, and these among themselves likewise: the farther it reaches, the later it comes.
            needed = [each for each in members if each.key in reached[member.key]]
            for each in [*sorted(needed, key=lambda one: len(reached[one.key])), member]:
                places.setdefault(each.key, len(places))
        return places

    def _others(self, slot: Slot) -> Sequence[Slot]:
        group = slot.spec.group
        return [each for each in self.table if group and each is not slot and each.spec.group == group]
