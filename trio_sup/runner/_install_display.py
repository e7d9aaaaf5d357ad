"""How far an installation has come, told as it goes: a bar in a terminal, lines elsewhere, JSON for programs."""

from __future__ import annotations

import abc
import json
import os
import sys
import time
from collections.abc import Callable

from .._releases import InstallPhase, InstallProgress
from ._stderr import say, warn

LINES_APART = 1.0
"""Seconds between two lines about one phase, at least."""
LINES_WITHOUT_TOTAL = 10.0
"""Seconds between two of them while nobody knows how much there is to come."""
TELLS = 10
"""Into how many parts the whole is cut, each of which is told."""
DOCUMENTS_APART = 0.2
"""Seconds between two documents about one phase, at least."""

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_MEASURED = (InstallPhase.DOWNLOADING, InstallPhase.VERIFYING, InstallPhase.UNPACKING)


class Display(abc.ABC):
    """Shows how far installations have come, one after the other."""

    @abc.abstractmethod
    def report(self, progress: InstallProgress) -> None:
        """Show it, if it is news enough."""

    def tick(self) -> None:  # noqa: B027  # most have nothing to do
        """Called now and then, so that it can be seen that nothing happens."""

    def warn(self, text: str) -> None:
        """Tell people something that stays, while installations go on."""
        warn(text)

    def close(self) -> None:  # noqa: B027  # most have nothing to do
        """Leave the terminal as it was; nothing more will be reported."""


def open_display(*, as_json: bool) -> Display:
    """The one that suits where this process's output goes."""
    if as_json:
        return JsonLines()
    if sys.stderr.isatty() and os.environ.get("TERM") not in (None, "", "dumb"):
        from ._install_bar import Bar

        return Bar()
    return Lines()


class InstallNews:
    """Says what is news of installations: each phase, and then each tenth of it, but not too often."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[str, tuple[InstallProgress, float]] = {}

    def text(self, progress: InstallProgress) -> str | None:
        """What to tell people of *progress*; None if it is no news."""
        if progress.phase is InstallPhase.DONE:
            self._told.pop(progress.backend, None)
            return None
        if not self._is_news(progress):
            return None
        self._told[progress.backend] = progress, self._clock()
        return f"{progress.backend}: {', '.join((in_words(progress), *figures(progress)))}"

    def _is_news(self, progress: InstallProgress) -> bool:
        told, told_at = self._told.get(progress.backend, (None, 0.0))
        if told is None or told.phase is not progress.phase:
            return True
        if progress.phase in (InstallPhase.WAITING, InstallPhase.RESOLVING):
            return progress.detail not in ("", told.detail)
        since = self._clock() - told_at
        if progress.fraction is None:
            return since >= LINES_WITHOUT_TOTAL and progress.done_bytes > told.done_bytes
        return since >= LINES_APART and int(progress.fraction * TELLS) > int((told.fraction or 0.0) * TELLS)


class Lines(Display):
    """A line on stderr for whatever is news."""

    def __init__(self) -> None:
        self._news = InstallNews()

    def report(self, progress: InstallProgress) -> None:
        """See `Display.report`."""
        text = self._news.text(progress)
        if text is not None:
            say(text)


class JsonLines(Display):
    """One JSON object for each phase on stdout, and then several a second."""

    def __init__(self) -> None:
        self._shown: InstallProgress | None = None
        self._shown_at = 0.0

    def report(self, progress: InstallProgress) -> None:
        """See `Display.report`."""
        shown, now = self._shown, time.monotonic()
        same = shown is not None and (shown.backend, shown.phase, shown.detail) == (
            progress.backend,
            progress.phase,
            progress.detail,
        )
        if progress.phase is InstallPhase.DONE or (same and now - self._shown_at < DOCUMENTS_APART):
            return
        self._shown, self._shown_at = progress, now
        document = {
            "type": "progress",
            "backend": progress.backend,
            "phase": progress.phase.value,
            "done_bytes": progress.done_bytes,
            "total_bytes": progress.total_bytes,
            "rate": round(progress.rate),
            "detail": progress.detail or None,
        }
        print(json.dumps(document), flush=True)


def in_words(progress: InstallProgress) -> str:
    """What is being done, such as ``"waiting for the install lock of chat, held by trio-sup (pid 7)"``."""
    if progress.phase is InstallPhase.WAITING:
        return f"waiting for {progress.detail}" if progress.detail else "waiting"
    if progress.phase is InstallPhase.RESOLVING and progress.detail:
        return f"resolving {progress.detail}"
    return str(progress.phase.value)


def figures(progress: InstallProgress) -> tuple[str, ...]:
    """How far it is, how much of it is done, how fast it goes; what is not known is left out."""
    if progress.phase not in _MEASURED or not (progress.done_bytes or progress.total_bytes):
        return ()
    share = f"{progress.fraction:.0%}" if progress.fraction is not None else ""
    return tuple(filter(None, (share, amount(progress), rate(progress))))


def amount(progress: InstallProgress) -> str:
    """``"120.3 of 400.0 MiB"``, or what is done if nobody knows how much there is to come."""
    unit = _unit(progress.total_bytes or progress.done_bytes)
    done = _in(progress.done_bytes, unit)
    return f"{done} of {_in(progress.total_bytes, unit)} {unit}" if progress.total_bytes else f"{done} {unit}"


def rate(progress: InstallProgress) -> str:
    """``"12.1 MiB/s"``; empty while it is not known."""
    if progress.rate <= 0:
        return ""
    unit = _unit(progress.rate)
    return f"{_in(progress.rate, unit)} {unit}/s"


def _unit(size: float) -> str:
    for unit in _UNITS[:-1]:
        if size < 1024:
            return unit
        size /= 1024
    return _UNITS[-1]


def _in(size: float, unit: str) -> str:
    scale = 1024.0 ** _UNITS.index(unit)
    return f"{size:.0f}" if unit == "B" else f"{size / scale:.1f}"
