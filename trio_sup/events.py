"""What happened, as frozen values in the past tense: one ordered stream per supervisor.

Every event has a rising `sequence`, the wall-clock `time` (seconds since the epoch) and, where it is about one
backend, its `key` and `generation`. `str(event)` is the line for people.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from ._phases import Cause, Phase, Then
from ._releases import InstallProgress, Release
from ._reports import ExitReport, Leftover, Survivor
from ._values import ProcessKey


@attrs.frozen(kw_only=True)
class Event:
    """Base of all events."""

    sequence: int = 0
    time: float = 0.0


@attrs.frozen(kw_only=True)
class BackendEvent(Event):
    """Base of the events about one backend."""

    key: ProcessKey
    generation: int


@attrs.frozen(kw_only=True)
class BackendMoved(BackendEvent):
    """Base of the moves from one phase to the next; there is exactly one event per move."""

    previous: Phase
    phase: Phase


@attrs.frozen(kw_only=True)
class BackendWaiting(BackendMoved):
    waits_for: str

    def __str__(self) -> str:
        return f"{self.key} waits for {self.waits_for}"


@attrs.frozen(kw_only=True)
class BackendStarting(BackendMoved):
    pid: int
    port: int

    def __str__(self) -> str:
        return f"{self.key} starts as pid {self.pid} on port {self.port}"


@attrs.frozen(kw_only=True)
class BackendReady(BackendMoved):
    address: str
    pid: int
    start_seconds: float

    def __str__(self) -> str:
        return f"{self.key} is ready on {self.address} (pid {self.pid}, {self.start_seconds:.2f} s)"


@attrs.frozen(kw_only=True)
class BackendUnready(BackendMoved):
    """It fails its readiness checks: it is not handed out, and not restarted either."""

    why: str

    def __str__(self) -> str:
        return f"{self.key} is out of rotation: {self.why}"


@attrs.frozen(kw_only=True)
class BackendStopping(BackendMoved):
    """Its end began; `detail` says why it was asked for, or how the process had ended already."""

    cause: Cause
    then: Then
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.key} stops: {self.cause.value}" + (f" ({self.detail})" if self.detail else "")


@attrs.frozen(kw_only=True)
class BackendStopFailed(BackendMoved):
    survivors: Sequence[Survivor]

    def __str__(self) -> str:
        return f"{self.key} could not be ended: " + "; ".join(map(str, self.survivors))


@attrs.frozen(kw_only=True)
class BackendBackoff(BackendMoved):
    """It ended although nobody had asked for it, and is started again after `delay` seconds.

    `failures` counts such ends since the last explicit start, the newest 1000 of them; `report` is None if there was
    no process.
    """

    delay: float
    failures: int
    why: str
    report: ExitReport | None

    def __str__(self) -> str:
        return f"{self.key} is started again in {self.delay:.1f} s: {self.why}"


@attrs.frozen(kw_only=True)
class BackendGivenUp(BackendMoved):
    """It is started no more until somebody asks for it."""

    why: str
    report: ExitReport | None

    def __str__(self) -> str:
        return f"{self.key} is given up: {self.why}"


@attrs.frozen(kw_only=True)
class BackendGone(BackendMoved):
    """Nothing of the attempt is left. `report` is None if there never was a process."""

    report: ExitReport | None

    def __str__(self) -> str:
        return f"{self.key} is gone" + (f": {self.report.status}" if self.report else "")


@attrs.frozen(kw_only=True)
class BackendExited(BackendEvent):
    """An attempt is over while its slot goes on (to another attempt); carries the exit report."""

    report: ExitReport

    def __str__(self) -> str:
        return f"{self.report}"


@attrs.frozen(kw_only=True)
class IdentityUncertain(BackendEvent):
    """The owner of the port could not be read; the backend was accepted on weaker evidence."""

    why: str

    def __str__(self) -> str:
        return f"{self.key}: cannot tell who owns its port ({self.why}); accepted, because the port was free before"


@attrs.frozen(kw_only=True)
class PortStolen(BackendEvent):
    """The port was still kept for another key, but no other one was left."""

    port: int
    kept_for: ProcessKey

    def __str__(self) -> str:
        return f"{self.key} got port {self.port}, which was still kept for {self.kept_for}: no other port was left"


@attrs.frozen(kw_only=True)
class PluginFailed(Event):
    """A plugin raised, hung or returned nonsense; what took over instead is named."""

    plugin: str
    what: str
    instead: str
    key: ProcessKey | None = None

    def __str__(self) -> str:
        about = f" for {self.key}" if self.key else ""
        return f"plugin {self.plugin}{about}: {self.what}; {self.instead}"


@attrs.frozen(kw_only=True)
class PluginSlow(Event):
    """A synchronous call into a plugin took longer than it may; everything else waited meanwhile."""

    plugin: str
    what: str
    seconds: float

    def __str__(self) -> str:
        return f"plugin {self.plugin} took {self.seconds * 1000:.0f} ms in {self.what}; everything else waited"


@attrs.frozen(kw_only=True)
class PluginStuck(Event):
    """A task of a plugin did not heed its cancellation and was left behind; it can only delay the final exit."""

    task: str

    def __str__(self) -> str:
        return f"the task {self.task!r} does not heed its cancellation; it was left behind"


@attrs.frozen(kw_only=True)
class GuardLost(Event):
    """The guard process ended although the supervisor lives; a new one takes over."""

    pid: int
    replacement: int | None

    def __str__(self) -> str:
        successor = f"pid {self.replacement} replaces it" if self.replacement else "it could not be replaced"
        return f"the guard (pid {self.pid}) has ended; {successor}"


@attrs.frozen(kw_only=True)
class LeftoversEnded(Event):
    """An earlier supervisor of the same state directory had left processes behind; they were ended.

    `survivors` are those that could not be ended.
    """

    ended: Sequence[Leftover] = ()
    survivors: Sequence[Survivor] = ()

    def __str__(self) -> str:
        parts = []
        if self.ended:
            parts.append(f"ended {len(self.ended)} left behind by an earlier supervisor: {_some(self.ended)}")
        if self.survivors:
            parts.append(f"could not end what an earlier supervisor left behind: {_some(self.survivors)}")
        return "; ".join(parts)


def _some(things: Sequence[object]) -> str:
    shown = "; ".join(map(str, things[:_MOST_NAMED]))
    return shown if len(things) <= _MOST_NAMED else f"{shown}; and {len(things) - _MOST_NAMED} more"


_MOST_NAMED = 10


@attrs.frozen(kw_only=True)
class StateNotWritten(Event):
    """The state directory cannot be written to; what belongs there is kept in memory, and tried again."""

    path: str
    why: str

    def __str__(self) -> str:
        return f"cannot write {self.path} ({self.why}): it is kept in memory meanwhile"


@attrs.frozen(kw_only=True)
class LogFailed(Event):
    """A log file could not be written to; told once for each reason, until that has been over for a minute.

    Backends are not touched by it. What is missing is counted, and told in the file as soon as that can be written
    to again.
    """

    path: str
    why: str

    def __str__(self) -> str:
        return f"cannot write to {self.path} ({self.why}); what is missing is counted, and everything else goes on"


@attrs.frozen(kw_only=True)
class EventsLost(Event):
    """This observer was too slow: so many events were left out before the next one."""

    count: int

    def __str__(self) -> str:
        return f"{self.count} events were lost: this observer is too slow"


@attrs.frozen(kw_only=True)
class InstallProgressed(Event):
    """An installation has come further, or does something else now; at most ten times a second."""

    progress: InstallProgress

    def __str__(self) -> str:
        return str(self.progress)


@attrs.frozen(kw_only=True)
class ReleaseInstalled(Event):
    """A release is in place; `replaced` is what was there before, if anything was."""

    release: Release
    replaced: Release | None = None

    def __str__(self) -> str:
        version = f" {self.release.metadata.version}" if self.release.metadata.version else ""
        return f"{self.release.name}{version} is {'installed anew' if self.replaced else 'installed'}"


@attrs.frozen(kw_only=True)
class InstallEnded(Event):
    """An installation failed or was cancelled; what was there before is untouched."""

    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.what} was not installed: {self.why}"


@attrs.frozen(kw_only=True)
class ReleaseDeleted(Event):
    """A release was deleted; `stopped` are the backends that ran until then, from it or with need of what did."""

    release: Release
    stopped: Sequence[ProcessKey] = ()

    def __str__(self) -> str:
        stopped = f"; stopped for it: {', '.join(map(str, self.stopped))}" if self.stopped else ""
        return f"{self.release.name} is deleted{stopped}"
