"""Columns of text."""

from __future__ import annotations

from collections.abc import Sequence

NOTHING = "-"
"""Stands in a cell that has nothing to say."""


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of *rows*, which are equally long, with their columns below one another."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
