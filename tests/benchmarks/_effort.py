"""How much a run may cost."""

from __future__ import annotations

import enum


class Effort(enum.Enum):
    """A glance that proves it works, the default, or everything."""

    QUICK = "quick"
    NORMAL = "normal"
    FULL = "full"

    def repeats(self, normal: int) -> int:
        """How often to do what is done *normal* times by default."""
        return {Effort.QUICK: max(1, normal // 10), Effort.NORMAL: normal, Effort.FULL: 2 * normal}[self]
