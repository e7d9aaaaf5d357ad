"""What the built-in probes raise."""

from __future__ import annotations


class CheckFailed(Exception):
    """The backend may not take calls yet; the text says why."""


def shortened(text: str, limit: int = 200) -> str:
    """The beginning of *text*, for a message."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"
