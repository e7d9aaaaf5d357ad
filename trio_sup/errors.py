"""Every error that trio-sup raises, shallow branches by what the caller can do about it.

All are subclasses of [`TrioSupError`][trio_sup.TrioSupError] and carry their data in attributes,
so that code never has to parse a message.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from ._wording import did_you_mean

if TYPE_CHECKING:
    from ._reports import ExitReport, StopReport
    from ._values import ProcessKey


class TrioSupError(Exception):
    """Base of all errors that trio-sup raises."""


class Unsupported(TrioSupError):
    """This process cannot run the supervisor: it needs Linux 5.4 or newer, and SIGCHLD must not be ignored."""


# ---- misuse: nothing was changed


@attrs.define(slots=False, eq=False)
class InvalidValue(TrioSupError, ValueError):
    """A value that cannot be meant."""

    value: object
    why: str

    def __str__(self) -> str:
        return f"{self.why} (got {self.value!r})"


@attrs.define(slots=False, eq=False)
class InvalidCommand(TrioSupError):
    """The command of a backend cannot be executed."""

    command: Sequence[str]
    why: str

    def __str__(self) -> str:
        return f"cannot run {self.command[0]!r}: {self.why}"


@attrs.define(slots=False, eq=False)
class SpecConflict(TrioSupError):
    """The key already runs from another specification."""

    key: ProcessKey
    differing: Sequence[str]

    def __str__(self) -> str:
        return (
            f"{self.key} already runs from another specification (differs in {', '.join(self.differing)}). "
            "Stop it first, or start with replace=True."
        )


@attrs.define(slots=False, eq=False)
class UnknownBackend(TrioSupError):
    """Nothing of that name was ever defined or started here."""

    name: str
    known: Sequence[str]

    def __str__(self) -> str:
        near = did_you_mean(self.name, self.known)
        hint = f"; {near}" if near else ""
        known = f"known are {', '.join(self.known)}" if self.known else "none is defined"
        return f"unknown backend {self.name!r}: {known}{hint}"


@attrs.define(slots=False, eq=False)
class DependencyCycle(TrioSupError):
    """Backends that need each other in a circle could never be started."""

    cycle: Sequence[str]

    def __str__(self) -> str:
        return f"backends that need each other in a circle can never start: {' -> '.join(self.cycle)}"


@attrs.define(slots=False, eq=False)
class StillNeeded(TrioSupError):
    """Others that run need what was to be stopped, and the stop was told to refuse then; nothing was changed."""

    needed: Sequence[ProcessKey]
    dependents: Sequence[ProcessKey]

    def __str__(self) -> str:
        return (
            f"{', '.join(map(str, self.needed))} is still needed by {', '.join(map(str, self.dependents))}. "
            'Stop those first, or stop with dependents="stop".'
        )


@attrs.define(slots=False, eq=False)
class SignificantEnded(TrioSupError):
    """A significant backend ended for good although nobody had asked for it, and the supervisor ended with it."""

    key: ProcessKey
    why: str
    report: ExitReport | None = None

    def __str__(self) -> str:
        return f"{self.key} is significant and has ended for good ({self.why}): the supervisor ends with it"


@attrs.define(slots=False, eq=False)
class SupervisorClosed(TrioSupError):
    """The supervisor is shutting down or has ended: it starts nothing any more."""

    def __str__(self) -> str:
        return "the supervisor is shutting down or has ended, and starts nothing any more"


@attrs.define(slots=False, eq=False)
class UnknownStrategy(TrioSupError):
    """No plugin offers a strategy of this kind and name."""

    kind: str
    name: str
    known: Sequence[str]

    def __str__(self) -> str:
        near = did_you_mean(self.name, self.known)
        hint = f"; {near}" if near else ""
        return f"unknown {self.kind} {self.name!r}: known are {', '.join(self.known)}{hint}"


@attrs.define(slots=False, eq=False)
class InvalidOptions(TrioSupError):
    """A strategy cannot be built from these options."""

    kind: str
    name: str
    problems: Sequence[str]

    def __str__(self) -> str:
        return f"bad options for {self.kind} {self.name!r}: " + "; ".join(self.problems)


@attrs.define(slots=False, eq=False)
class StateDirectoryInUse(TrioSupError):
    """Another supervisor works in this state directory."""

    path: str
    pid: int | None

    def __str__(self) -> str:
        who = f"another trio-sup (pid {self.pid})" if self.pid else "another trio-sup"
        return f"{who} uses the state directory {self.path}. Stop it first, or give another one with --state-dir."


@attrs.define(slots=False, eq=False)
class ConfigError(TrioSupError):
    """The configuration cannot be used; all problems at once, each with its path."""

    path: str
    problems: Sequence[str]

    def __str__(self) -> str:
        return "\n".join([f"{self.path}: {len(self.problems)} problem(s)", *(f"  {p}" for p in self.problems)])


# ---- a backend did not start


@attrs.define(slots=False, eq=False)
class StartFailed(TrioSupError):
    """A start ended without a ready backend. Base of the reasons below.

    Attributes:
        key: The slot that was to be filled.
        generation: Which attempt it was; 0 if none was begun.
        elapsed: Seconds since the attempt began.
        address: ``host:port`` the backend was to serve on, or None if it had none yet.
        report: How the process ended, or None if there was none.
        stderr_tail: The last lines (at most 20) it wrote to stderr.
        last_health_error: Why the last health check failed, or None.
    """

    key: ProcessKey
    generation: int = 0
    elapsed: float = 0.0
    address: str | None = None
    report: ExitReport | None = None
    stderr_tail: str = ""
    last_health_error: str | None = None

    def _with_output(self, text: str) -> str:
        if self.last_health_error:
            text += f" Last health error: {self.last_health_error}."
        return f"{text} Its last output on stderr:\n{self.stderr_tail or '(nothing)'}"


@attrs.define(slots=False, eq=False)
class DiedDuringStartup(StartFailed):
    """The process ended before it was ready."""

    def __str__(self) -> str:
        status = self.report.status if self.report else "unknown status"
        hint = ""
        if self.report is not None and self.report.left_children:
            hint = " It left children running, which were ended: run it in the foreground, without daemonizing."
        return self._with_output(f"{self.key} died during startup after {self.elapsed:.1f} s: {status}.{hint}")


@attrs.define(slots=False, eq=False)
class NotReadyInTime(StartFailed):
    """The process lived but was not ready before the deadline.

    Attributes:
        timeout: Seconds that it had, those that signs of progress gave it included.
        hard_limit: Signs of progress did not help any more.
    """

    timeout: float = 0.0
    hard_limit: bool = False

    def __str__(self) -> str:
        raised = "readiness.max_timeout" if self.hard_limit else "readiness.timeout"
        return self._with_output(
            f"{self.key} did not become ready within {self.timeout:g}s on {self.address}"
            f"{', although it made progress' if self.hard_limit else ''}. Raise {raised} if it loads slowly."
        )


@attrs.define(slots=False, eq=False)
class StoppedDuringStartup(StartFailed):
    """A stop, a shutdown or a replacement overtook the start."""

    cause: str = ""

    def __str__(self) -> str:
        return f"{self.key} was stopped during startup: {self.cause}"


@attrs.define(slots=False, eq=False)
class LaunchFailed(StartFailed):
    """The operating system refused to start the process."""

    why: str = ""

    def __str__(self) -> str:
        return f"{self.key} could not be launched: {self.why}"


@attrs.define(slots=False, eq=False)
class TooFewDescriptors(LaunchFailed):
    """The process may not open the descriptors that one more backend needs."""

    limit: int = 0

    def __str__(self) -> str:
        return (
            f"{self.key} could not be launched: too few file descriptors are left of the limit of {self.limit}. "
            "Raise it with `ulimit -n` (or LimitNOFILE=)."
        )


@attrs.define(slots=False, eq=False)
class NoPortAvailable(StartFailed):
    """The port strategy has no port to give."""

    why: str = ""

    def __str__(self) -> str:
        return f"no port for {self.key}: {self.why}"


@attrs.define(slots=False, eq=False)
class WarmUpFailed(StartFailed):
    """It answered its probe, but what is to be done before it may be used failed."""

    why: str = ""

    def __str__(self) -> str:
        return self._with_output(f"{self.key} could not be warmed up: {self.why}.")


@attrs.define(slots=False, eq=False)
class NeedFailed(StartFailed):
    """A backend that it needs is not going to be ready."""

    needed: str = ""
    why: str = ""

    def __str__(self) -> str:
        return f"{self.key} needs {self.needed}, which {self.why}. Start {self.needed} again first."


@attrs.define(slots=False, eq=False)
class NoRoom(StartFailed):
    """It would take more than what may run at once, and nothing that runs may be stopped for it.

    Attributes:
        why: Which bound it is, in words.
        holders: The slots that take up the room, each with the reason why it stays.
    """

    why: str = ""
    holders: Sequence[tuple[ProcessKey, str]] = ()

    def __str__(self) -> str:
        held = "; ".join(f"{key} ({reason})" for key, reason in self.holders) or "nothing that could be stopped"
        return f"no room for {self.key}: {self.why}. It is taken by: {held}"


@attrs.define(slots=False, eq=False)
class GivenUp(StartFailed):
    """It failed too often, and is started no more until somebody asks for it.

    Attributes:
        why: What the restart policy said.
        last: The failure of the last attempt; None if its last end was not a failed start.
    """

    why: str = ""
    last: StartFailed | None = None

    def __str__(self) -> str:
        last = f" The last failure: {self.last}" if self.last else ""
        return f"{self.key} was given up: {self.why}.{last}"


@attrs.define(slots=False, eq=False)
class AttemptCrashed(StartFailed):
    """An internal error ended this attempt; the report carries the traceback."""

    why: str = ""

    def __str__(self) -> str:
        return f"{self.key} was ended by an internal error, please report it: {self.why}"


# ---- a backend did not stop


@attrs.define(slots=False, eq=False)
class StopFailed(TrioSupError):
    """Something of a backend is still alive after everything was tried.

    Attributes:
        reports: One per backend that was to end; those with survivors name them.
    """

    reports: Sequence[StopReport]

    def __str__(self) -> str:
        failed = [report for report in self.reports if not report.gone]
        return "\n".join(
            f"{report.key} could not be ended: "
            + "; ".join(str(survivor) for survivor in report.survivors)
            + ". Its port stays reserved; stop or start it again to try once more."
            for report in failed
        )


# ---- calls through the bridge


@attrs.define(slots=False, eq=False)
class CallFailed(TrioSupError):
    """A gRPC call did not succeed.

    Attributes:
        status: Name of the gRPC status, such as ``"UNAVAILABLE"``; ``"UNKNOWN"`` for an answer that is not gRPC.
        message: What the server or the transport said.
    """

    path: str
    status: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.status}: {self.message}"
