"""What a benchmark says: figures with goals, and the table of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import attrs

UNITS = {"ms": 1e3, "s": 1.0, "x": 1.0, "%": 1e2, "MB": 1e-6, "": 1.0}
"""What a value in seconds, bytes or plain numbers is multiplied by to be shown in a unit."""


@attrs.frozen(kw_only=True)
class Figure:
    """One measured number.

    Args:
        name: What was measured.
        measured: In seconds, bytes, or a plain number; shown in `unit`.
        unit: One of `UNITS`.
        goal: At most this, in the same measure; None if it is told for comparison only.
        note: How to read it.
    """

    name: str
    measured: float
    unit: str = attrs.field(validator=attrs.validators.in_(UNITS))
    goal: float | None = None
    note: str = ""

    def verdict(self) -> str:
        """``met``, ``MISSED``, or nothing without a goal."""
        if self.goal is None:
            return ""
        return "met" if self.measured <= self.goal else "MISSED"

    def to_json(self) -> dict[str, Any]:
        """Its fields, in seconds, bytes or plain numbers, and the verdict."""
        return {**attrs.asdict(self), "verdict": self.verdict()}

    def cells(self) -> tuple[str, ...]:
        """Its line of the table."""
        share = f"{self.measured / self.goal:.2f} of it, {self.verdict()}" if self.goal else ""
        return (self.name, self._shown(self.measured), self._shown(self.goal), share)

    def _shown(self, value: float | None) -> str:
        if value is None:
            return ""
        value *= UNITS[self.unit]
        digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
        return f"{value:.{min(digits, 3)}f} {self.unit}".rstrip()


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least *share* (0 to 1) of all samples do not exceed."""
    return sorted(samples)[max(0, math.ceil(share * len(samples)) - 1)]


def median(samples: Iterable[float]) -> float:
    """The middle one."""
    return statistics.median(samples)


def table(figures: Sequence[Figure]) -> str:
    """Figures as aligned text, each note under its line."""
    rows = [("figure", "measured", "goal (at most)", "verdict"), *(figure.cells() for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = []
    for row, note in zip(rows, ["", *(figure.note for figure in figures)], strict=True):
        texts = (row[0].ljust(widths[0]), row[1].rjust(widths[1]), row[2].rjust(widths[2]), row[3])
        lines.append(" | ".join(texts).rstrip())
        if note:
            lines.append(f"    {note}")
    return "\n".join(lines)
