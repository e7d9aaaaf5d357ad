"""The one place where phases change: a move of the table, its event, and the news for those who wait for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import attrs

from .. import events
from .._phases import Phase, check_move
from ._event_stream import EventHub
from ._slot import Slot
from ._slots import SlotTable


@attrs.frozen(kw_only=True)
class Moves:
    """Makes the moves of all slots."""

    hub: EventHub
    table: SlotTable

    def make(self, slot: Slot, phase: Phase, make_event: Callable[..., events.BackendMoved]) -> None:
        """The one function that changes a phase.

        Raises:
            ForbiddenMove: The table of moves does not have it.
        """
        check_move(slot.phase, phase)
        previous, slot.phase = slot.phase, phase
        self.hub.publish(make_event(key=slot.key, generation=slot.attempt.generation, previous=previous, phase=phase))
        self.table.changed(slot)

    def wait_for(self, slot: Slot, what: str) -> None:
        """Move *slot* to WAITING for *what*, unless that is what it waits for already."""
        if slot.phase is Phase.WAITING and slot.waits_for == what:
            return
        slot.waits_for = what
        self.make(slot, Phase.WAITING, partial(events.BackendWaiting, waits_for=what))
