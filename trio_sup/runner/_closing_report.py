"""How each backend ended, as the last thing a run says."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from .._reports import ExitReport
from .._values import ProcessKey


def closing_report(
    last: Mapping[ProcessKey, ExitReport | None], *, failed: Collection[ProcessKey], left: Collection[ProcessKey]
) -> list[str]:
    """One line per key, those first that did not end as they should.

    Args:
        last: The last exit report of each key; None where there is none.
        failed: The keys that could not be started.
        left: The keys whose end is not over.
    """
    rows = []
    for key, report in last.items():
        if report is not None and report.survivors:
            rank, text = 0, "; ".join(map(str, report.survivors))
        elif key in left:
            rank, text = 0, "it has not ended"
        elif report is None:
            rank, text = (1, "it could not be started") if key in failed else (3, "it had no process")
        else:
            rank = 1 if key in failed or not report.success else 2 if report.killed else 3
            text = _end(report) + ("; it never became ready" if key in failed else "")
        rows.append((rank, key, text))
    return [f"{key}: {text}" for _, key, text in sorted(rows)]


def _end(report: ExitReport) -> str:
    text = f"{report.status or 'unknown exit status'}"
    if report.asked:
        text += f", {report.stop_seconds:.2f} s after it was told to end"
    else:
        text += f", {report.cause.value} after {report.lived:.1f} s"
    return f"{text}; it had to be killed" if report.killed else text
