"""The state of one slot: who wants it, which attempt fills it, and what follows.

Only the engine's synchronous code changes it; between two awaits that is atomic, so there is no lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import attrs
import trio

from .._log_lines import Stream
from .._phases import Cause, Phase, Then
from .._reports import Backend, ExitReport, ExitStatus, StopReport
from .._restarts import REMEMBERED
from .._values import BackendSpec, ProcessKey
from ..bridge import Channel
from ..errors import TrioSupError
from ..protocol.address import join_address
from ..strategies import AttemptEnd, LaunchPreparation, PortStrategy, Probe, RestartPolicy, StopPolicy, WarmUp
from ._command import Command
from ._logs import AttemptLog
from ._system import Child, HeldPort


@attrs.frozen(eq=False)
class PortSource:
    """A port strategy that backends chose, and how it is called in messages."""

    strategy: PortStrategy
    name: str


@attrs.frozen(kw_only=True)
class Strategies:
    """What a specification's choices were made into; those with a name are called so in messages."""

    probe: Probe
    liveness_probe: Probe | None
    stop_policy: StopPolicy
    stop_policy_name: str
    restart_policy: RestartPolicy
    restart_policy_name: str
    ports: PortSource
    warm_ups: Sequence[tuple[str, WarmUp]] = ()
    preparations: Sequence[tuple[str, LaunchPreparation]] = ()


@attrs.define(eq=False)
class Wanted:
    """A wish for a ready backend that many callers may share; its outcome is a value that each of them reads.

    Attributes:
        held: Somebody besides the callers wants it, so that it goes on when the last of them has left.
        leasing: How many of the callers want a lease on it as soon as it is ready.
        slot: Where it became ready.
    """

    spec: BackendSpec
    strategies: Strategies
    held: bool = False
    waiters: int = 0
    leasing: int = 0
    port_collisions: int = 0
    done: trio.Event = attrs.field(factory=trio.Event)
    backend: Backend | None = None
    make_error: Callable[[], TrioSupError] | None = None
    slot: Slot | None = None

    def succeed(self, slot: Slot) -> None:
        """Tell all waiters that *slot* is ready, and give those a lease that want one."""
        if not self.done.is_set():
            slot.lease(self.leasing)
            self.slot, self.backend = slot, slot.snapshot()
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

    def once_more(self) -> Wanted:
        """The wish for the next attempt: this one while callers still wait for it, else a new one that is held."""
        if not self.done.is_set():
            return self
        return Wanted(self.spec, self.strategies, held=True)


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
    """One run of a slot.

    Attributes:
        rotation_seconds: How long it had been in rotation before it last left it.
        in_rotation_since: Since when it is; None while it is not.
        condemned: Its end is decided, though it may have to wait for others to end first.
        timed_out_after: Seconds from launch to the readiness deadline that ended it.
        memory_bytes: What its tree held when it was last measured.
        let_go_of_release: Lets go of the files that it runs from; to be called when its tree is gone.
        awaits_listener: Whether its readiness still waits for something to listen on its port.
        seen_listening: Whether the listener on its port was seen when its owner was looked up.
        report: How it ended, once it has.
        failure: Makes the error for those who wait for it to be ready, once it has ended.
    """

    key: ProcessKey
    generation: int
    wanted: Wanted
    created_at: float
    life_scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    condemned: bool = False
    cause: Cause | None = None
    asked_by: str | None = None
    crash: Exception | None = None
    error: TrioSupError | None = None
    command: Command | None = None
    let_go_of_release: Callable[[], None] | None = None
    child: Child | None = None
    channel: Channel | None = None
    speaks_grpc: bool = False
    awaits_listener: bool = False
    seen_listening: bool = False
    launched_at: float | None = None
    launched_time: float | None = None
    timed_out_after: float | None = None
    ready_at: float | None = None
    start_seconds: float | None = None
    rotation_seconds: float = 0.0
    in_rotation_since: float | None = None
    exited: trio.Event = attrs.field(factory=trio.Event)
    exited_at: float | None = None
    status: ExitStatus | None = None
    forced: trio.Event = attrs.field(factory=trio.Event)
    ending: Ending = attrs.field(factory=Ending)
    report: ExitReport | None = None
    failure: Callable[[], TrioSupError] | None = None
    last_health_error: str | None = None
    log: AttemptLog | None = None
    output_bytes: int = 0
    memory_bytes: int | None = None

    @property
    def spec(self) -> BackendSpec:
        return self.wanted.spec

    @property
    def strategies(self) -> Strategies:
        return self.wanted.strategies

    def tail(self, stream: Stream) -> str:
        """The last lines that it wrote to *stream*."""
        return self.log.tail(stream) if self.log is not None else ""

    def end(self, cause: Cause, asked_by: str | None = None) -> None:
        """Begin the end of this attempt; the first cause is kept, with who asked for it."""
        if self.cause is None:
            self.cause, self.asked_by = cause, asked_by
        self.life_scope.cancel(reason=cause.value)

    def enter_rotation(self, now: float) -> None:
        """It is ready from the instant *now* on."""
        self.in_rotation_since = now

    def leave_rotation(self, now: float) -> None:
        """It is not, or no longer, ready from the instant *now* on."""
        if self.in_rotation_since is not None:
            self.rotation_seconds += now - self.in_rotation_since
            self.in_rotation_since = None


@attrs.define(eq=False)
class Slot:
    """One key: its phase, its port, its current attempt, and what is wanted of it.

    Attributes:
        ordinal: Keys are numbered in the order in which they were first defined or wanted.
        leave: A stop was asked: whatever ended the attempt, nothing follows it, unless `next` says otherwise.
        roused: Set when something was asked of a slot that rests (in BACKOFF or GIVEN_UP).
        ends: The unasked ends since the last explicit start, oldest first.
        restarts: How often it was started again since then.
        due_at: In BACKOFF, the instant of the next attempt.
        why: In UNREADY, BACKOFF and GIVEN_UP, the reason.
        admitted: It counts towards what may run at once.
        leases: How many hold it in use.
        last_used_at: When it last became ready or lost its last lease.
        returning: It is restarted together with its group, and not ready again yet.
        returns_to_needs: Its attempt follows one that ended because what it needs had failed.
        doomed: Why it is to be given up once its attempt has ended.
    """

    key: ProcessKey
    wanted: Wanted
    attempt: Attempt
    ordinal: int = 0
    phase: Phase = Phase.GONE
    waits_for: str | None = None
    next: Wanted | None = None
    leave: bool = False
    roused: trio.Event = attrs.field(factory=trio.Event)
    ends: deque[AttemptEnd] = attrs.field(factory=lambda: deque(maxlen=REMEMBERED))
    restarts: int = 0
    due_at: float | None = None
    why: str | None = None
    held_port: HeldPort | None = None
    port: int | None = None
    port_strategy: PortStrategy | None = None  # the one that gave it, which may be the built-in one
    port_source: PortSource | None = None
    admitted: bool = False
    leases: int = 0
    unleased: trio.Event = attrs.field(factory=trio.Event)
    last_used_at: float = 0.0
    returning: bool = False
    returns_to_needs: bool = False
    doomed: str | None = None
    gone: trio.Event = attrs.field(factory=trio.Event)
    try_again: trio.Event = attrs.field(factory=trio.Event)

    @property
    def spec(self) -> BackendSpec:
        """What fills it, or would."""
        return self.attempt.spec

    @property
    def then(self) -> Then:
        cause = self.attempt.cause
        if self.next is not None:
            return Then.START
        if self.leave or cause is None:
            return Then.GONE
        if cause.failed_elsewhere:
            return Then.START
        return Then.GONE if cause.asked else Then.DECIDE

    def is_ending(self) -> bool:
        """Whether the current attempt can no longer become or stay ready."""
        return self.attempt.cause is not None or self.phase in (Phase.STOPPING, Phase.STOP_FAILED)

    def is_resting(self) -> bool:
        """Whether its last attempt is over, and something asked may rouse it."""
        # The next attempt leaves the phase only with its first move.
        return self.phase in (Phase.BACKOFF, Phase.GIVEN_UP) and self.attempt.failure is not None

    def is_ready(self) -> bool:
        """Whether it may be handed out."""
        return self.phase is Phase.READY and not self.is_ending()

    def is_live(self) -> bool:
        """Whether a process of it is there or about to be, and not on its way to the end."""
        return self.phase in (Phase.STARTING, Phase.READY, Phase.UNREADY) and not self.is_ending()

    def is_leaving(self) -> bool:
        """Whether the end of the current attempt is decided, though it may not have begun yet."""
        return self.leave or self.attempt.condemned or self.is_ending()

    def goes_for_good(self) -> bool:
        """Whether it is on its way out, and nothing follows."""
        return (self.leave or self.is_ending()) and self.then is Then.GONE

    def serves(self) -> bool:
        """Whether it is ready and, as far as anybody knows, stays so."""
        return self.is_ready() and not self.is_leaving()

    def rouse(self) -> None:
        """Have what was asked looked at, if it rests."""
        self.roused.set()

    def forget_failures(self) -> None:
        """An explicit start counts anew."""
        self.ends.clear()
        self.restarts = 0
        self.doomed = None

    def end_again(self) -> None:
        """In STOP_FAILED: have one more try made; whoever asks meanwhile joins it."""
        if not self.try_again.is_set():
            self.attempt.ending = Ending()
            self.try_again.set()

    def lease(self, count: int = 1) -> None:
        """Hold it in use, so that it is not stopped for being idle or to make room."""
        self.leases += count

    def end_lease(self, now: float) -> None:
        """Let go of one lease at the instant *now*."""
        self.leases -= 1
        self.last_used_at = now
        if not self.leases:
            self.unleased.set()
            self.unleased = trio.Event()

    def address(self) -> str | None:
        """``host:port``, or None while there is no port."""
        return join_address(self.attempt.spec.host, self.port) if self.port is not None else None

    def snapshot(self, *, wall_clock: float = 0.0, now: float = 0.0) -> Backend:
        """What it is like now.

        Args:
            wall_clock, now: The same instant on the wall clock and on Trio's; needed in BACKOFF only.
        """
        attempt = self.attempt
        report = attempt.ending.report
        resting = self.is_resting() or self.phase is Phase.WAITING
        return Backend(
            key=self.key,
            generation=attempt.generation,
            phase=self.phase,
            spec=attempt.spec,
            address=self.address() if self.phase is Phase.READY else None,
            port=self.port,
            pid=attempt.child.pid if attempt.child is not None and not resting else None,
            started_at=attempt.launched_time,
            start_seconds=attempt.start_seconds,
            waits_for=self.waits_for if self.phase is Phase.WAITING else None,
            survivors=report.survivors if report is not None and self.phase is Phase.STOP_FAILED else (),
            restarts=self.restarts,
            next_start_at=wall_clock + self.due_at - now if self.due_at is not None else None,
            why=self.why,
            leases=self.leases,
        )
