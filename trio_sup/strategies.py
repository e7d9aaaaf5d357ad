"""The shapes of what plugins supply: one small protocol per policy.

A strategy is an object with one or two methods; the engine never asks for its class.
It is made from an attrs class whose fields are its options, so that a wrong option is a clear error.
Durations are seconds; instants come from `trio.current_time()` and are passed in.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from ._options import complaints_name_fields as complaints_name_fields  # for classes of options
from ._releases import InstallPhase as InstallPhase
from ._releases import UnpackLimits as UnpackLimits
from ._units import byte_count as byte_count  # for options that are sizes
from ._units import seconds as seconds  # for options that are durations
from ._units import seconds_above_zero as seconds_above_zero

if TYPE_CHECKING:
    from ._reports import ExitReport
    from ._values import BackendSpec, ProcessKey
    from .bridge import Channel
    from .engine import Supervisor
    from .events import Event


class PortsExhausted(Exception):
    """Raised by a port strategy that has no port to give; its text says why and what to change."""


class PortStrategy(Protocol):
    """Which port a backend gets."""

    def allocate(self, key: ProcessKey, now: float, hold: Callable[[int], int | None]) -> int:
        """Choose and hold one port for *key*.

        Args:
            key: Who asks.
            now: The current instant.
            hold: Tries to take a port: tells the number it now holds, or None if somebody else has it. ``hold(0)``
                lets the kernel choose. Ports held but not returned are let go of by the engine afterwards.

        Returns:
            A port that *hold* returned.

        Raises:
            PortsExhausted: There is none.
        """
        ...

    def release(self, key: ProcessKey, port: int, now: float) -> None:
        """Take *port* back from *key*: its processes are proven gone, and nothing listens there any more."""
        ...


class InstallLock(Protocol):
    """Keeps an installation of a backend and its launches apart."""

    def hold(self, backend: str, *, shared: bool) -> AbstractAsyncContextManager[None]:
        """Hold the lock of *backend* for the length of the block.

        Args:
            backend: Canonical name of the backend.
            shared: True for those that use the files (many at once), False for the one that changes them.

        Cancellation: a wait that is cancelled leaves nothing behind.
        """
        ...


class StopTarget(Protocol):
    """What a stop policy may do to the attempt that is to end."""

    @property
    def key(self) -> ProcessKey: ...
    @property
    def spec(self) -> BackendSpec: ...
    @property
    def pid(self) -> int: ...

    async def free(self) -> None:
        """Call its Free RPC, if it has ever answered gRPC; raises `CallFailed` if that fails. Set your own bound."""
        ...

    def signal(self, number: signal.Signals | None = None) -> None:
        """Send *number* (by default the specification's stop signal) to whom the specification says."""
        ...

    async def exited(self) -> None:
        """Wait until the process has ended."""
        ...

    async def unleased(self) -> None:
        """Wait until nobody holds a lease on it any more (`Supervisor.use`); no new one is given while it stops."""
        ...


class StopPolicy(Protocol):
    """How a backend is asked to end. It asks; the engine insists afterwards, whatever the policy did."""

    def budget(self, spec: BackendSpec) -> float:
        """Seconds the policy may take for this backend; then the engine goes on without it."""
        ...

    async def stop(self, target: StopTarget) -> None:
        """Ask the backend to end, and return when it has or when asking is over.

        Cancellation: arrives as soon as the process has ended, the budget is used up, or the stop is forced.
        """
        ...


@attrs.frozen(kw_only=True)
class AttemptEnd:
    """What a restart policy is told of one attempt that ended although nobody had asked for it.

    Attributes:
        ended_at: The instant when its end was complete, from `trio.current_time()`.
        ready_for: Seconds it had been ready, those out of rotation and those of its end left out; None if it never
            was: then its start failed.
        success: It ended by itself, with a code or signal that its specification counts as success.
        report: How it ended; None if there was no process.
    """

    ended_at: float
    ready_for: float | None
    success: bool
    report: ExitReport | None = None


@attrs.frozen
class RestartAfter:
    """Start it again, *delay* seconds from now."""

    delay: float


@attrs.frozen
class GiveUp:
    """Start it no more until somebody asks for it; *why* is told to people."""

    why: str


class RestartPolicy(Protocol):
    """What follows when an attempt ends although nobody asked for it."""

    def decide(self, ends: Sequence[AttemptEnd], rng: random.Random) -> RestartAfter | GiveUp | None:
        """Decide by what has happened since the last explicit start. Quick, and without side effects.

        Args:
            ends: The ends since then, oldest first, at most the newest 1000; the last one is the one to decide about.
            rng: Where to take random numbers from.

        Returns:
            When to start again, or that it is given up; None to leave it ended, as if it had been asked to.
        """
        ...


@attrs.frozen(kw_only=True)
class WarmUpTarget:
    """The started backend that a warm-up prepares for use; it answers its probe already, and is its port's owner.

    Attributes:
        address: ``host:port``.
        channel: An open gRPC channel to it; it carries the token.
    """

    key: ProcessKey
    spec: BackendSpec
    pid: int
    address: str
    channel: Channel


class WarmUp(Protocol):
    """What is done after each start, and before READY: for example loading a model."""

    def budget(self, spec: BackendSpec) -> float:
        """Seconds the warm-up may take for this backend; then its start has failed."""
        ...

    async def warm_up(self, target: WarmUpTarget) -> None:
        """Return when the backend may be used; raise anything if it may not: the text is the reason that is shown.

        Cancellation: arrives as soon as the process has ended, is asked to end, or the budget is used up.
        """
        ...


@attrs.frozen(kw_only=True)
class ProbeTarget:
    """What a probe may look at.

    Attributes:
        host, port, address: Where the backend was told to serve; *address* is ``host:port``.
        channel: An open gRPC channel to it; it carries the token, and connects at the first call.
        environment: The environment of the backend, its marker included: give it to helper processes.
        call_timeout: Seconds one check may take; the engine enforces it as well.
    """

    key: ProcessKey
    spec: BackendSpec
    pid: int
    host: str
    port: int
    address: str
    channel: Channel
    environment: Mapping[str, str] = attrs.field(repr=False)
    call_timeout: float


class Probe(Protocol):
    """How it is told that a process may take calls.

    Attributes:
        needs_listener: True if the check talks to the backend's port. It is then made only once something listens
            there, at once; and every listener there must belong to the backend.
        speaks_grpc: True if a passed check proves that the backend speaks gRPC, so that Free may be called later.
    """

    @property
    def needs_listener(self) -> bool: ...
    @property
    def speaks_grpc(self) -> bool: ...

    async def check(self, target: ProbeTarget) -> None:
        """Return if the backend may take calls; raise anything if not: the text is the reason that is shown."""
        ...


@attrs.frozen(kw_only=True)
class Launch:
    """What is about to be executed.

    Attributes:
        executable: Path of the program.
        arguments: Its arguments, its own name in front.
        environment: Its environment. The marker of the process tree is added afterwards, whatever stands here.
        cwd: Its working directory; None for the supervisor's own.
        port: The port it is told to serve on.
    """

    key: ProcessKey
    spec: BackendSpec
    executable: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = attrs.field(repr=False)
    cwd: Path | None
    port: int


class LaunchPreparation(Protocol):
    """Changes what is executed: environment, arguments, or a program put in front that executes the rest.

    A program put in front must `exec` the backend, so that the process stays the same one.
    """

    def check(self, spec: BackendSpec) -> None:
        """Look whether *spec* could be prepared here, before anything is started; raise `InvalidValue` if not."""
        ...

    def prepare(self, launch: Launch) -> Launch:
        """Return the changed launch (`attrs.evolve`). Quick; anything it raises fails this start only."""
        ...


class Observer(Protocol):
    """A function that is told every event; it must not wait. One that raises is named and not called again."""

    def __call__(self, event: Event, /) -> None: ...


class Service(Protocol):
    """A long-running task beside the backends, such as an exporter.

    It starts when the supervisor is open, and is cancelled when every backend has ended. One that raises is named;
    the supervisor goes on.
    """

    def __call__(self, supervisor: Supervisor, /) -> Awaitable[None]: ...


@attrs.frozen(kw_only=True)
class Fetch:
    """What a gallery source is asked to fetch.

    Attributes:
        uri: The address, scheme included.
        into: An empty directory to be filled with the files of the release; what is in it when `fetch` fails is
            thrown away.
        scratch: A directory of this address alone, for what is downloaded. It is on the same file system, kept when
            `fetch` fails or is cancelled, so that the next try can go on, and removed when the release is installed.
        sha256: Digest, in lower-case hex digits, that what is downloaded must have; None if nobody gave one.
        verification: How the gallery says that its releases are signed; empty if it does not.
        limits: How much may be unpacked.
        report: To be called with phase, bytes done, and bytes in all (None while unknown) as often as you like; quick,
            and from any thread.
    """

    uri: str
    into: Path
    scratch: Path
    sha256: str | None = None
    verification: Mapping[str, Any] = attrs.field(factory=dict)
    limits: UnpackLimits = attrs.field(factory=UnpackLimits)
    report: Callable[[InstallPhase, int, int | None], None] = attrs.field(default=lambda phase, done, total: None)


@attrs.frozen(kw_only=True)
class Fetched:
    """What a gallery source has fetched.

    Attributes:
        uri: What was really fetched, for the record.
        digest: ``sha256:`` and hex digits of it; None if that has no meaning here.
    """

    uri: str
    digest: str | None = None


class GallerySource(Protocol):
    """Where releases come from, for the addresses of one scheme."""

    def proof(self, uri: str, *, sha256: str | None, verification: Mapping[str, Any]) -> str | None:
        """Say, in words, what will prove that what is fetched is what was meant; None if nothing would.

        Asked before anything is fetched; where integrity is required, None refuses the address. A proof that is
        promised here and fails must make `fetch` raise. Quick, and without I/O.
        """
        ...

    async def digest(self, uri: str) -> str | None:
        """Ask what the address means now, without fetching it: ``sha256:…``, or None if that cannot be told.

        Raises:
            DownloadFailed: It cannot be reached.
        """
        ...

    async def fetch(self, fetch: Fetch) -> Fetched:
        """Download, verify, and only then unpack.

        Raises:
            DownloadFailed: It cannot be fetched.
            DigestMismatch: It is not what was meant.
            UnsafeArchive, ArchiveTooLarge: It must not be unpacked.
            OSError: The disk is full, and the like.

        Cancellation: ends soon; what was downloaded stays in `scratch`.
        """
        ...
