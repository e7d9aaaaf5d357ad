"""How much may run at once: who is let in, and who makes room for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import attrs
import trio

from .._phases import Cause, Phase
from .._room import AwaitRoom, Bounds, Evict, Fits, Occupant, Refuse, Use, make_room
from ..errors import NoRoom
from ._needs import Needs
from ._slot import Slot
from ._slots import SlotTable


@attrs.frozen(kw_only=True)
class Admission:
    """Lets slots in, within the bounds of the supervisor; a slot stays in from its first attempt to its last."""

    table: SlotTable
    needs: Needs
    bounds: Bounds

    async def admit(self, slot: Slot, waits_for: Callable[[str], None]) -> None:
        """Wait until there is room for *slot*; have those stopped that make room for it.

        Args:
            waits_for: Told what is waited for.

        Raises:
            NoRoom: Nothing that may be stopped would be enough.

        Cancellation: leaves nothing behind; those that were told to stop do so.
        """
        if self.bounds == Bounds():
            return
        if self.bounds.memory_budget is not None and not slot.admitted:
            waits_for("a look at the memory that is in use")
        while not slot.admitted:
            if self.bounds.memory_budget is not None:
                await self._measure()
            # No await from here to the admission: two newcomers cannot get the same room.
            decision = make_room(slot.key, slot.spec.memory or 0, map(self._occupant, self._inside()), self.bounds)
            match decision:
                case Fits():
                    slot.admitted = True
                case Refuse(why=why, holders=holders):
                    raise NoRoom(slot.key, slot.attempt.generation, why=why, holders=holders)
                case Evict(keys=keys) | AwaitRoom(keys=keys):
                    if isinstance(decision, Evict):
                        for key in keys:
                            self.table[key].attempt.end(Cause.EVICTED)
                    waits_for(f"the room of {', '.join(map(str, keys))}")
                    # Not for any change: two that wait would wake each other, over and over.
                    await self.table.changes.next(*map(str, keys))

    def _inside(self) -> Iterable[Slot]:
        return (slot for slot in self.table if slot.admitted)

    def _occupant(self, slot: Slot) -> Occupant:
        return Occupant(key=slot.key, use=self._use_of(slot), last_used_at=slot.last_used_at, cost_bytes=_cost_of(slot))

    def _use_of(self, slot: Slot) -> Use:
        if slot.phase is Phase.STOP_FAILED:
            return Use.STUCK
        if slot.is_leaving():
            return Use.STOPPING if slot.goes_for_good() else Use.STARTING
        if slot.phase not in (Phase.READY, Phase.UNREADY):
            return Use.STARTING
        if slot.spec.pinned:
            return Use.PINNED
        if slot.leases:
            return Use.LEASED
        return Use.NEEDED if self.needs.has_live_dependents(slot) else Use.IDLE

    async def _measure(self) -> None:
        """Have a fresh look at the memory of all that runs."""
        async with trio.open_nursery() as nursery:
            for slot in self._inside():
                if slot.attempt.child is not None and not slot.attempt.exited.is_set():
                    nursery.start_soon(partial(_measure_one, slot))


def _cost_of(slot: Slot) -> int:
    """Bytes that it needs: as measured while it is ready; otherwise, since it may still grow, at least as declared."""
    declared, measured = slot.spec.memory or 0, slot.attempt.memory_bytes
    if measured is None:
        return declared
    return measured if slot.phase in (Phase.READY, Phase.UNREADY) else max(declared, measured)


@trio.lowlevel.enable_ki_protection
async def _measure_one(slot: Slot) -> None:
    attempt = slot.attempt
    assert attempt.child is not None
    usage = await attempt.child.usage(exact_memory=True)
    if usage is not None:
        attempt.memory_bytes = usage.memory_bytes
