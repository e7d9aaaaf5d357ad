"""The last lines of a run: how each backend ended."""

from __future__ import annotations

import signal
from typing import Any

from trio_sup import Cause, ExitReport, ExitStatus, Phase, ProcessKey, Survivor
from trio_sup.runner._closing_report import closing_report


def key(text: str) -> ProcessKey:
    return ProcessKey(text, 0)


def report(name: str, **fields: Any) -> ExitReport:
    usual: dict[str, Any] = {
        "key": key(name), "generation": 1, "pid": 7, "cause": Cause.SHUTDOWN, "phase": Phase.READY,
        "status": ExitStatus(code=0), "success": True, "ended_at": 0.0, "lived": 61.2, "stop_seconds": 0.254,
        "killed": False, "left_children": 0, "survivors": (), "last_health_error": None, "stderr_tail": "",
    }  # fmt: skip
    return ExitReport(**{**usual, **fields})


def test_those_come_first_that_did_not_end_as_they_should() -> None:
    last = {
        key("a"): report("a"),
        key("b"): report("b", status=ExitStatus(signal=signal.SIGKILL), killed=True, stop_seconds=15.004),
        key("c"): report("c", cause=Cause.EXITED, success=False, status=ExitStatus(code=3)),
        key("d"): report("d", cause=Cause.DEADLINE, success=False, status=ExitStatus(signal=signal.SIGTERM)),
        key("e"): None,
        key("f"): None,
        key("g"): report("g", status=None, survivors=[Survivor(12, "sleep 5", "not permitted to signal it")]),
        key("h"): report("h"),
        key("i"): report("i", status=None),
    }
    assert closing_report(last, failed={key("d"), key("e")}, left={key("h")}) == [
        "g#0: pid 12 (sleep 5): not permitted to signal it",
        "h#0: it has not ended",
        "c#0: exit code 3, ended by itself after 61.2 s",
        "d#0: killed by SIGTERM, readiness deadline after 61.2 s; it never became ready",
        "e#0: it could not be started",
        "b#0: killed by SIGKILL, 15.00 s after it was told to end; it had to be killed",
        "a#0: exit code 0, 0.25 s after it was told to end",
        "f#0: it had no process",
        "i#0: unknown exit status, 0.25 s after it was told to end",
    ]
