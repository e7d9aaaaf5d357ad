"""What was: how attempts ended, and the snapshots handed to callers."""

from __future__ import annotations

import signal
from collections.abc import Sequence

import attrs

from ._phases import Cause, Phase
from ._values import BackendSpec, ProcessKey
from .errors import InvalidValue

MOST_REASON = 200
"""Characters of the reason that may be given for a stop."""


def to_reason(value: object) -> str | None:
    """Read the reason of a stop: who asked, or what for; None if none was given.

    Raises:
        InvalidValue: It is no text, is blank or too long, or does not fit on a line.
    """
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > MOST_REASON:
        raise InvalidValue(value, f"a reason is one line of printable text, at most {MOST_REASON} characters")
    return value


@attrs.frozen
class ExitStatus:
    """How a process ended: by a code or by a signal; neither if somebody else collected it."""

    code: int | None = None
    signal: int | None = None

    def __str__(self) -> str:
        if self.signal is not None:
            try:
                return f"killed by {signal.Signals(self.signal).name}"
            except ValueError:
                return f"killed by signal {self.signal}"
        return f"exit code {self.code}" if self.code is not None else "unknown exit status"


@attrs.frozen
class Survivor:
    """A process of a backend's tree that could not be ended."""

    pid: int
    command: str
    why: str = "still alive after SIGKILL"

    def __str__(self) -> str:
        return f"pid {self.pid} ({self.command}): {self.why}"


@attrs.frozen
class Leftover:
    """A process that an earlier supervisor had left behind."""

    pid: int
    command: str

    def __str__(self) -> str:
        return f"pid {self.pid} ({self.command})"


@attrs.frozen(kw_only=True)
class ExitReport:
    """How one attempt ended.

    Attributes:
        cause: What ended the attempt.
        asked: Whether that was somebody's wish (a stop, a replacement, a shutdown), or the supervisor's own decision
            (it was idle, made room, or went with what it needs or with its group).
        asked_by: The reason that was given with the stop: who asked, or what for. None if none was.
        phase: The phase it was in when its end began.
        status: Exit code or signal of the process; None if it still lives (see survivors).
        success: It was asked for, or ended by itself with a success code.
        ended_at: Wall-clock time (seconds since the epoch) when its end was complete.
        lived: Seconds from launch to the end of the process.
        stop_seconds: Seconds from the beginning of its end until the tree was proven gone.
        killed: Whether SIGKILL was needed.
        left_children: Processes of the tree that were still alive after the leader had ended and were killed.
        out_of_memory: What speaks for it that memory ran out, in words; None if nothing does.
        last_health_error: Why the last health check failed, if the last one did.
        stderr_tail: The last lines (at most 20) it wrote to stderr.
        traceback: For an internal error.
    """

    key: ProcessKey
    generation: int
    pid: int
    cause: Cause
    phase: Phase
    status: ExitStatus | None
    success: bool
    ended_at: float
    lived: float
    stop_seconds: float
    killed: bool = False
    left_children: int = 0
    survivors: Sequence[Survivor] = ()
    asked_by: str | None = None
    out_of_memory: str | None = None
    last_health_error: str | None = None
    stderr_tail: str = attrs.field(default="", repr=False)
    traceback: str | None = attrs.field(default=None, repr=False)

    @property
    def asked(self) -> bool:
        return self.cause.asked

    def __str__(self) -> str:
        why = f"{self.cause.value}: {self.asked_by}" if self.asked_by else self.cause.value
        return f"{self.key} ({why}): {self.status or 'still alive'}"


@attrs.frozen(kw_only=True)
class StopReport:
    """What a stop achieved for one key.

    Attributes:
        gone: Whether the whole tree is proven gone.
        survivors: What is still alive, if it is not.
        report: The exit report of the attempt that was ended; None if there was no process.
    """

    key: ProcessKey
    generation: int
    gone: bool
    survivors: Sequence[Survivor] = ()
    report: ExitReport | None = None


@attrs.frozen(kw_only=True)
class Backend:
    """A frozen snapshot of one slot, as of one generation.

    Attributes:
        address: ``host:port``; None unless it was READY.
        port: The port it holds; None while it has none: before its first launch, and in GIVEN_UP.
        pid: Process id of the leader; None while there is no process.
        start_seconds: From launch to READY.
        started_at: Wall-clock time of the launch, seconds since the epoch.
        waits_for: While WAITING, what for.
        restarts: How often it was started again since the last explicit start.
        next_start_at: In BACKOFF, the wall-clock time of the next attempt, seconds since the epoch.
        why: In UNREADY, BACKOFF and GIVEN_UP, the reason; in GONE, how the last attempt ended, if there was one.
        leases: How many blocks of `Supervisor.use` and `Supervisor.channel` it is in use by.
    """

    key: ProcessKey
    generation: int
    phase: Phase
    spec: BackendSpec
    address: str | None = None
    port: int | None = None
    pid: int | None = None
    started_at: float | None = None
    start_seconds: float | None = None
    waits_for: str | None = None
    survivors: Sequence[Survivor] = ()
    restarts: int = 0
    next_start_at: float | None = None
    why: str | None = None
    leases: int = 0

    @property
    def name(self) -> str:
        """Name of the backend that runs here."""
        return self.spec.name
