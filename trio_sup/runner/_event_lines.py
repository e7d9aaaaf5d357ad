"""Events as lines: for people on stderr, for programs on stdout."""

from __future__ import annotations

import json
import time

from .._report_tables import plain
from .._reports import ExitReport
from .._wording import counted
from ..events import BackendExited, BackendGone, BackendWaiting, Event


def for_people(event: Event) -> str | None:
    """What *event* says, or None if it is not worth a line."""
    if isinstance(event, BackendWaiting):
        return None
    report = event.report if isinstance(event, (BackendGone, BackendExited)) else None
    return _ended(report) if report is not None else str(event)


def _ended(report: ExitReport) -> str:
    text = f"{report.key} ended after {report.lived:.1f} s: {report.status or 'still alive'} ({report.cause.value}"
    if report.asked_by:
        text += f": {report.asked_by}"
    text += f", gone in {report.stop_seconds:.2f} s"
    if report.killed:
        text += ", it had to be killed"
    if report.left_children:
        text += f", with {counted(report.left_children, 'process', 'processes')} it had left behind"
    text += ")"
    if report.out_of_memory:
        text += f"\n{report.key} may have run out of memory: {report.out_of_memory}"
    return text + (f"\n{report.traceback.rstrip()}" if report.traceback else "")


def for_programs(event: Event) -> str:
    """*event* as one JSON object."""
    return json.dumps({"type": "event", "event": type(event).__name__, **plain(event)})


def stamped(text: str, at: float | None = None) -> str:
    """*text* with our name and the time of day (by default now) in front of each line."""
    at = time.time() if at is None else at
    clock = f"{time.strftime('%H:%M:%S', time.localtime(at))}.{int(at % 1 * 1000):03}"
    return "\n".join(f"trio-sup | {clock} {line}" for line in text.splitlines())
