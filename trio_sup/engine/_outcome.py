"""What came of an attempt: its exit report, and the error for those who wanted it ready."""

from __future__ import annotations

import copy
import re
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import trio

from .._phases import Cause, Phase
from .._reports import ExitReport
from ..errors import (
    AttemptCrashed,
    DiedDuringStartup,
    NeedFailed,
    NotReadyInTime,
    StartFailed,
    StoppedDuringStartup,
    TrioSupError,
    WarmUpFailed,
)
from ._oom import hint_in
from ._slot import Attempt, Slot
from ._system import TreeEnding

_PORT_TAKEN = re.compile(r"address already in use|EADDRINUSE|os error 98|errno[ :=]*98", re.IGNORECASE)


def died_of_taken_port(attempt: Attempt, phase: Phase) -> bool:
    """Whether the process ended by itself while starting, and says that its port was taken."""
    said = attempt.tail("stderr") + attempt.tail("stdout")
    return attempt.cause is Cause.EXITED and phase is Phase.STARTING and bool(_PORT_TAKEN.search(said))


def ended_well(attempt: Attempt) -> bool:
    """Whether it ended by itself, with a code or signal that its specification counts as success."""
    status, spec = attempt.status, attempt.spec
    if attempt.cause is not Cause.EXITED or status is None:
        return False
    return status.code in spec.success_codes or status.signal in spec.success_signals


def why_ended(attempt: Attempt) -> str:
    """Why *attempt* ended, in a few words."""
    cause = attempt.cause
    if cause is Cause.EXITED and attempt.status is not None:
        return str(attempt.status)
    if isinstance(attempt.error, NeedFailed):
        return f"it needs {attempt.error.needed}, which {attempt.error.why}"
    if attempt.error is not None and cause is not Cause.WARM_UP_FAILED:
        return str(attempt.error).partition("\n")[0].removeprefix(f"{attempt.key} ")
    detail = attempt.last_health_error if cause in (Cause.LIVENESS, Cause.DEADLINE) else None
    if isinstance(attempt.error, WarmUpFailed):
        detail = attempt.error.why
    text = cause.value if cause is not None else "it could not be started"
    return f"{text}: {detail}" if detail else text


def exit_report(attempt: Attempt, phase: Phase, began_at: float, killed: bool, ending: TreeEnding) -> ExitReport:
    """The report of an attempt whose end began in *phase* at *began_at*."""
    now = trio.current_time()
    assert attempt.child is not None
    assert attempt.launched_at is not None
    cause, status = attempt.cause or Cause.INTERNAL_ERROR, attempt.status
    success, stderr = cause.asked or ended_well(attempt), attempt.tail("stderr")
    # What it wrote counts only for an end that nobody wished for: it may be long ago, and well survived.
    evidence = (attempt.child.out_of_memory(), None if success else hint_in(stderr))
    return ExitReport(
        key=attempt.key,
        generation=attempt.generation,
        pid=attempt.child.pid,
        cause=cause,
        phase=phase,
        status=status,
        success=success,
        ended_at=time.time(),
        lived=(attempt.exited_at or now) - attempt.launched_at,
        stop_seconds=now - began_at,
        killed=killed,
        left_children=0 if killed else ending.left_children,
        survivors=ending.survivors,
        asked_by=attempt.asked_by,
        out_of_memory="; ".join(filter(None, evidence)) or None,
        last_health_error=attempt.last_health_error,
        stderr_tail=stderr,
        traceback="".join(traceback.format_exception(attempt.crash)) if attempt.crash else None,
    )


def start_error(slot: Slot, attempt: Attempt) -> Callable[[], TrioSupError]:
    """Makes the error for whoever waits for *attempt* to be ready: one exception each, since raising changes it.

    To be called once the attempt has ended, and while the slot has its port.
    """
    report = attempt.report
    known: dict[str, Any] = {
        "generation": attempt.generation,
        "elapsed": (attempt.exited_at or trio.current_time()) - (attempt.launched_at or attempt.created_at),
        "address": slot.address(),
        "report": report,
        "stderr_tail": report.stderr_tail if report else "",
        "last_health_error": attempt.last_health_error,
    }
    if isinstance(attempt.error, StartFailed) and report is not None:
        return partial(attrs.evolve, attempt.error, **known)  # raised while the process lived: its end is known now
    if attempt.error is not None:
        return partial(copy.copy, attempt.error)
    error: type[StartFailed]
    extra: dict[str, Any] = {}
    match attempt.cause:
        case Cause.EXITED | Cause.PORT_TAKEN:
            error = DiedDuringStartup
        case Cause.DEADLINE:
            readiness, timeout = attempt.spec.readiness, attempt.timed_out_after or attempt.spec.readiness.timeout
            hard_limit = bool(readiness.progress) and timeout >= round(readiness.hard_timeout, 3)
            error, extra = NotReadyInTime, {"timeout": timeout, "hard_limit": hard_limit}
        case Cause.INTERNAL_ERROR | None:
            error, extra = AttemptCrashed, {"why": repr(attempt.crash)}
        case cause:
            error, extra = StoppedDuringStartup, {"cause": cause.value}
    return partial(error, slot.key, **known, **extra)
