"""What needs what: waiting for needed backends, who goes when one of them fails, and in which order all of it stops."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import attrs
import trio

from .._dependencies import needs_met_by
from .._phases import Cause, Phase
from .._values import ProcessKey
from ..errors import NeedFailed, TrioSupError
from ._slot import Slot
from ._slots import SlotTable


@attrs.frozen(kw_only=True)
class Needs:
    """The engine's view of `BackendSpec.needs`: a need is met while at least one backend that it means is ready.

    Args:
        start: Has what is defined under a key started, held by whoever needs it.
    """

    table: SlotTable
    start: Callable[[ProcessKey], None]

    async def met(self, slot: Slot, waits_for: Callable[[str], None]) -> None:
        """Wait until everything that *slot* needs is ready; what is defined and does not run is started.

        Args:
            waits_for: Told what is waited for.

        Raises:
            NeedFailed: Something that it needs was given up, or has ended while it was waited for.

        Cancellation: leaves nothing behind.
        """
        seen: set[str] = set()
        while (unmet := self._first_unmet(slot, seen)) is not None:
            waits_for(f"{unmet}, which it needs")
            await self.table.changes.next()

    def _first_unmet(self, slot: Slot, seen: set[str]) -> str | None:
        for need in slot.spec.needs:
            slots = [each for each in self.table.meant_by(need) if each is not slot]
            if any(each.is_ready() for each in slots):
                continue
            if any(each.phase is not Phase.GIVEN_UP for each in slots):
                seen.add(need)
                return need
            if slots:
                raise self._failed(slot, str(slots[0].key), f"was given up: {slots[0].why}")
            if need in seen:
                raise self._failed(slot, need, "has ended")
            self._start_defined(slot, need)
            return need
        return None

    def _start_defined(self, slot: Slot, need: str) -> None:
        for key in self.table.definitions_of(need):
            if key != slot.key:
                try:
                    self.start(key)
                except TrioSupError as error:
                    raise self._failed(slot, str(key), f"cannot be started: {error}") from error

    @staticmethod
    def _failed(slot: Slot, needed: str, why: str) -> NeedFailed:
        return NeedFailed(slot.key, slot.attempt.generation, needed=needed, why=why)

    def end_bound_to(self, failed: Slot) -> None:
        """*failed* ended although nobody had asked for it: end those that are bound to it and have no other."""
        for other in self.table:
            if not (other.spec.bind and other.is_live()) or other is failed:
                continue
            for slots in self._meant_by_needs_of(other):
                if failed in slots and not any(each.is_ready() for each in slots if each is not failed):
                    other.attempt.end(Cause.NEEDED_FAILED)

    def depends(self, one: Slot, on: Slot) -> bool:
        """Whether *one* needs *on*, directly or by way of others."""
        todo, seen = [one], {one.key}
        while todo:
            for slots in self._meant_by_needs_of(todo.pop()):
                if on in slots:
                    return True
                new = [each for each in slots if each.key not in seen]
                seen.update(each.key for each in new)
                todo += new
        return False

    def dependents_of(self, leaving: Iterable[Slot]) -> list[Slot]:
        """Those that would lack something if *leaving* were stopped, directly or by way of others; without these."""
        gone = {slot.key: slot for slot in leaving}
        asked = set(gone)
        # Only those with needs matter, and each pass adds at least one of them or is the last.
        candidates = [slot for slot in self.table if slot.spec.needs and slot.phase is not Phase.GIVEN_UP]
        grown = True
        while grown:
            grown = False
            for slot in candidates:
                if slot.key in gone or (slot.leave and slot.next is None):
                    continue
                if any(self._lost(slots, gone) for slots in self._meant_by_needs_of(slot)):
                    gone[slot.key] = slot
                    grown = True
        return [slot for key, slot in gone.items() if key not in asked]

    @staticmethod
    def _lost(slots: Sequence[Slot], gone: dict[ProcessKey, Slot]) -> bool:
        leaving = [slot for slot in slots if slot.key in gone]
        return bool(leaving) and all(slot.key in gone or slot.leave for slot in slots)

    def first_to_go(self, slot: Slot, leaving: Sequence[Slot]) -> list[Slot]:
        """Those of *leaving* that need *slot* directly: it is stopped after them."""
        return [
            each
            for each in leaving
            if each is not slot and each.spec.needs and any(slot in slots for slots in self._meant_by_needs_of(each))
        ]

    def note_end_of(self, dependent: Slot) -> None:
        """*dependent* has ended: what it needed counts as used until now."""
        for slots in self._meant_by_needs_of(dependent):
            for slot in slots:
                slot.last_used_at = trio.current_time()

    def has_live_dependents(self, slot: Slot) -> bool:
        """Whether stopping *slot* would take something away from one that runs or is about to."""
        return bool(self.dependents_of([slot]))

    def _meant_by_needs_of(self, slot: Slot) -> list[list[Slot]]:
        if not slot.spec.needs:
            return []
        among = [(each.key, each.spec) for each in self.table if each is not slot and each.phase is not Phase.GIVEN_UP]
        return [[self.table[key] for key in keys] for keys in needs_met_by(slot.spec, among).values()]
