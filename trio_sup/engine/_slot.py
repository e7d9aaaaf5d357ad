"""The state of one slot: who wants it, which attempt fills it, and what follows.

Only the engine's synchronous code changes it; between two awaits that is atomic, so there is no lock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import trio

from .._phases import Cause, Phase, Then
from .._reports import Backend, ExitStatus, StopReport
from .._values import BackendSpec, ProcessKey
from ..bridge import Channel
from ..errors import TrioSupError
from ..protocol.address import join_address
from ..strategies import LaunchPreparation, PortStrategy, Probe, StopPolicy
from ._command import Command
from ._output import OutputRing
from ._system import Child, HeldPort


@attrs.frozen(eq=False)
class PortSource:
    """A port strategy that backends chose, and how it is called in messages."""

    strategy: PortStrategy
    name: str


@attrs.define(eq=False)
class Wanted:
    """A wish for a ready backend that many callers may share; its outcome is a value that each of them reads."""

    spec: BackendSpec
    probe: Probe
    stop_policy: StopPolicy
    stop_policy_name: str
    ports: PortSource
    preparations: Sequence[tuple[str, LaunchPreparation]] = ()
    waiters: int = 0
    port_collisions: int = 0
    done: trio.Event = attrs.field(factory=trio.Event)
    backend: Backend | None = None
    make_error: Callable[[], TrioSupError] | None = None

    def succeed(self, backend: Backend) -> None:
        if not self.done.is_set():
            self.backend = backend
            self.done.set()

    def fail(self, make_error: Callable[[], TrioSupError]) -> None:
        """Fail all waiters; each gets an exception of its own, since raising one changes it."""
        if not self.done.is_set():
            self.make_error = make_error
            self.done.set()

    def result(self) -> Backend:
        if self.backend is not None:
            return self.backend
        assert self.make_error is not None
        raise self.make_error()


@attrs.define(eq=False)
class Ending:
    """One round of ending an attempt; joined by everybody who wants it ended."""

    done: trio.Event = attrs.field(factory=trio.Event)
    report: StopReport | None = None

    def finish(self, report: StopReport) -> None:
        self.report = report
        self.done.set()


@attrs.define(eq=False)
class Attempt:
    """One run of a slot."""

    key: ProcessKey
    generation: int
    wanted: Wanted
    created_at: float
    life_scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    cause: Cause | None = None
    crash: Exception | None = None
    error: TrioSupError | None = None
    command: Command | None = None
    child: Child | None = None
    channel: Channel | None = None
    speaks_grpc: bool = False
    launched_at: float | None = None
    launched_time: float | None = None
    start_seconds: float | None = None
    exited: trio.Event = attrs.field(factory=trio.Event)
    exited_at: float | None = None
    status: ExitStatus | None = None
    forced: trio.Event = attrs.field(factory=trio.Event)
    ending: Ending = attrs.field(factory=Ending)
    last_health_error: str | None = None
    stdout: OutputRing = attrs.field(factory=OutputRing)
    stderr: OutputRing = attrs.field(factory=OutputRing)

    @property
    def spec(self) -> BackendSpec:
        return self.wanted.spec

    def end(self, cause: Cause) -> None:
        """Begin the end of this attempt; the first cause is kept."""
        if self.cause is None:
            self.cause = cause
        self.life_scope.cancel(reason=cause.value)


@attrs.define(eq=False)
class Slot:
    """One key: its phase, its port, its current attempt, and what is wanted of it."""

    key: ProcessKey
    wanted: Wanted
    attempt: Attempt
    phase: Phase = Phase.GONE
    waits_for: str | None = None
    next: Wanted | None = None
    held_port: HeldPort | None = None
    port: int | None = None
    port_strategy: PortStrategy | None = None  # the one that gave it, which may be the built-in one
    port_source: PortSource | None = None
    gone: trio.Event = attrs.field(factory=trio.Event)
    try_again: trio.Event = attrs.field(factory=trio.Event)

    @property
    def then(self) -> Then:
        return Then.START if self.next is not None else Then.GONE

    def is_ending(self) -> bool:
        """Whether the current attempt can no longer become or stay ready."""
        return self.attempt.cause is not None or self.phase in (Phase.STOPPING, Phase.STOP_FAILED)

    def end_again(self) -> None:
        """In STOP_FAILED: have one more try made; whoever asks meanwhile joins it."""
        if not self.try_again.is_set():
            self.attempt.ending = Ending()
            self.try_again.set()

    def address(self) -> str | None:
        """``host:port``, or None while there is no port."""
        return join_address(self.attempt.spec.host, self.port) if self.port is not None else None

    def snapshot(self) -> Backend:
        attempt = self.attempt
        report = attempt.ending.report
        return Backend(
            key=self.key,
            generation=attempt.generation,
            phase=self.phase,
            spec=attempt.spec,
            address=self.address() if self.phase is Phase.READY else None,
            port=self.port,
            pid=attempt.child.pid if attempt.child is not None else None,
            started_at=attempt.launched_time,
            start_seconds=attempt.start_seconds,
            waits_for=self.waits_for if self.phase is Phase.WAITING else None,
            survivors=report.survivors if report is not None and self.phase is Phase.STOP_FAILED else (),
        )
