"""How much may run at once: who is let in, and who makes room."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from ._needs import Needs
from ._slot import Slot
from ._slots import SlotTable


@attrs.frozen(kw_only=True)
class Admission:
    """Lets slots in."""

    table: SlotTable
    needs: Needs
    max_running: int | None
    memory_budget: int | None

    async def admit(self, slot: Slot, waits_for: Callable[[str], None]) -> None:
        slot.admitted = True
