"""What tests of plugins and of programs that embed trio-sup need: a stand-in for the operating system.

Open a supervisor with ``system=FakeSystem(...)`` under a virtual clock, and hours pass in milliseconds. Nothing is
launched: a [`FakeBackend`][trio_sup.testing.FakeBackend] says how each process would behave.
"""

from __future__ import annotations

import math
import signal
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import attrs
import trio
from google.protobuf.message import Message

from .._progress import Usage
from .._reports import ExitStatus, Survivor
from ..engine._identity import Identity, Verdict
from ..engine._output import Stream
from ..engine._system import TreeEnding
from ..errors import CallFailed
from ..protocol import FREE, HEALTH, HEALTH_CHECK, backend_pb2, health_pb2
from ..strategies import Launch

WORK_BYTES = 16 * 2**20
"""What a fake process that works reads each second, and by what it grows."""


@attrs.frozen(kw_only=True)
class FakeBackend:
    """How a fake process behaves; all times are seconds.

    Attributes:
        listens_after: From launch until it listens.
        healthy_after: From launch until Health answers OK; before, it fails.
        health_hangs: Health never answers.
        unhealthy_during: Spans in which Health fails, each from and until so long after launch.
        hangs_during: Spans in which Health does not answer, likewise; a call that came within one is answered after it.
        exits_after: From launch until it ends by itself.
        exit_code: With which code it then ends.
        stops_after: From a polite signal until it ends; infinite if it ignores it.
        free_takes: How long Free takes.
        warm_up_takes: How long every other call takes, such as LoadModel.
        warm_up_error: What such a call then raises; None if it succeeds.
        left_children: So many processes of its tree outlive the leader, until SIGKILL.
        survives_kill: Its tree does not end at SIGKILL, until `FakeChild.release` is called.
        launch_error: Raised instead of a launch.
        stderr: What it writes at once.
        out_of_memory: What speaks for it that the kernel killed it for want of memory.
        identity: What is found out about the owner of its port.
        works_from: From launch until it begins to work; infinite if it never does.
        works_until: From launch until it works no more.
        work: What its work shows in, some of ``"cpu"``, ``"reads"``, ``"memory"`` and ``"output"``: each second it
            computes for a second, reads `WORK_BYTES`, grows by as much, writes a line.
        memory_bytes: What its tree holds before it works.
    """

    listens_after: float = 0.0
    healthy_after: float = 0.0
    health_hangs: bool = False
    unhealthy_during: Collection[tuple[float, float]] = ()
    hangs_during: Collection[tuple[float, float]] = ()
    exits_after: float = math.inf
    exit_code: int = 0
    stops_after: float = 0.0
    free_takes: float = 0.0
    warm_up_takes: float = 0.0
    warm_up_error: Exception | None = None
    left_children: int = 0
    survives_kill: bool = False
    launch_error: OSError | None = None
    stderr: bytes = b""
    out_of_memory: str | None = None
    identity: Identity = attrs.field(factory=lambda: Identity(Verdict.OURS))
    works_from: float = math.inf
    works_until: float = math.inf
    work: Collection[str] = ("cpu",)
    memory_bytes: int = 0


@attrs.define(eq=False)
class FakePort:
    """A held port."""

    port: int
    _held: set[int]

    def close(self) -> None:
        self._held.discard(self.port)


@attrs.define(eq=False)
class FakeChild:
    """A process that only behaves as if.

    Attributes:
        behaviour: How it behaves; may be replaced (`attrs.evolve`) while it runs.
        signals: What was sent to it, each with its instant.
        checked_at: The instants at which it was asked for its health.
        freed_at: The instants at which Free was called.
        calls: The requests of all other calls but health checks: each with its instant and the path of the RPC.
    """

    pid: int
    port: int
    behaviour: FakeBackend
    environment: dict[str, str]
    launched_at: float = attrs.field(factory=trio.current_time)
    signals: list[tuple[float, signal.Signals]] = attrs.field(factory=list)
    checked_at: list[float] = attrs.field(factory=list)
    freed_at: list[float] = attrs.field(factory=list)
    calls: list[tuple[float, str, Message]] = attrs.field(factory=list)
    closed: bool = False
    _exit_at: float = math.inf
    _status: ExitStatus = attrs.field(factory=ExitStatus)
    _changed: trio.Event = attrs.field(factory=trio.Event)
    _released: trio.Event = attrs.field(factory=trio.Event)
    _takes: dict[Stream, Callable[[bytes], None]] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self._exit_at = self.launched_at + self.behaviour.exits_after
        self._status = ExitStatus(code=self.behaviour.exit_code)

    def exit(self, status: ExitStatus | None = None) -> None:
        """End it now, by itself; what it leaves of its tree lives on."""
        self._end_at(trio.current_time(), status or ExitStatus(code=self.behaviour.exit_code))
        if not self.behaviour.left_children:
            self._released.set()

    def write(self, data: bytes, stream: Stream = "stderr") -> None:
        """Have it write *data* now; it must have been launched and read from for a moment."""
        self._takes[stream](data)

    def release(self) -> None:
        """Let a tree that survives SIGKILL end at last."""
        self._end_at(trio.current_time(), ExitStatus(signal=signal.SIGKILL))
        self._released.set()

    def _end_at(self, instant: float, status: ExitStatus) -> None:
        if instant < self._exit_at:
            self._exit_at, self._status = instant, status
            self._changed.set()

    def has_ended(self) -> bool:
        return trio.current_time() >= self._exit_at

    async def wait(self) -> ExitStatus:
        while not self.has_ended():
            self._changed = trio.Event()
            with trio.CancelScope(deadline=self._exit_at):
                await self._changed.wait()
        await trio.lowlevel.checkpoint()
        return self._status

    async def pump(self, stream: Stream, take: Callable[[bytes], None]) -> None:
        self._takes[stream] = take
        if stream == "stderr":
            if self.behaviour.stderr:
                take(self.behaviour.stderr)
            if "output" in self.behaviour.work:
                await self._write_while_at_work(take)
        await trio.sleep_forever()

    async def _write_while_at_work(self, take: Callable[[bytes], None]) -> None:
        at = self.behaviour.works_from
        while at < self.behaviour.works_until:
            await trio.sleep_until(self.launched_at + at)
            take(b"at work\n")
            at += 1.0

    def signal(self, number: signal.Signals, to: Literal["leader", "group"]) -> None:
        self.signals.append((trio.current_time(), number))
        self._end_at(trio.current_time() + self.behaviour.stops_after, ExitStatus(signal=number))

    async def remember(self) -> None:
        await trio.lowlevel.checkpoint()

    async def usage(self, *, exact_memory: bool = False) -> Usage | None:
        await trio.lowlevel.checkpoint()
        if self.has_ended():
            return Usage()
        behaviour = self.behaviour
        lived = trio.current_time() - self.launched_at
        worked = max(0.0, min(lived, behaviour.works_until) - min(lived, behaviour.works_from))
        work_bytes = int(worked * WORK_BYTES)
        return Usage(
            cpu_seconds=worked if "cpu" in behaviour.work else 0.0,
            read_bytes=work_bytes if "reads" in behaviour.work else 0,
            memory_bytes=behaviour.memory_bytes + (work_bytes if "memory" in behaviour.work else 0),
        )

    async def end_tree(self, timeout: float) -> TreeEnding:
        left = self.behaviour.left_children if self.has_ended() and not self._released.is_set() else 0
        if left or not self.has_ended():
            self.signals.append((trio.current_time(), signal.SIGKILL))
            if self.behaviour.survives_kill and not self._released.is_set():
                await trio.sleep(timeout)
                if not self._is_gone():
                    return TreeEnding((Survivor(self.pid, "fake"),), left)
            self._end_at(trio.current_time(), ExitStatus(signal=signal.SIGKILL))
            self._released.set()
        await trio.lowlevel.checkpoint()
        return TreeEnding(left_children=left)

    def _is_gone(self) -> bool:
        return self.has_ended() and (self._released.is_set() or not self.behaviour.left_children)

    async def survivors_ended(self) -> None:
        await self._released.wait()

    def out_of_memory(self) -> str | None:
        return self.behaviour.out_of_memory

    def close(self) -> None:
        self.closed = True


@attrs.define(eq=False)
class FakeChannel:
    """Answers as the fake backend would: health checks, Free, and any other call that takes one request."""

    child: FakeChild

    def local_address(self) -> None:
        """There is no connection, so each check proves anew whose it is."""

    def part(self) -> None:
        """There is no connection to end."""

    async def unary_unary(
        self, path: str, request: Any, reply_type: Any, *, timeout: float | None = None, metadata: Any = None
    ) -> Any:
        behaviour = self.child.behaviour
        await trio.lowlevel.checkpoint()
        if path == FREE:
            self.child.freed_at.append(trio.current_time())
            await trio.sleep(behaviour.free_takes)
            return backend_pb2.Result(success=True)
        if path not in (HEALTH, HEALTH_CHECK):
            return await self._answer(path, request, reply_type, timeout)
        self.child.checked_at.append(trio.current_time())
        if behaviour.health_hangs:
            await trio.sleep_forever()
        lived = trio.current_time() - self.child.launched_at
        for since, until in behaviour.hangs_during:
            if since <= lived < until:
                await trio.sleep_until(self.child.launched_at + until)
        if self.child.has_ended():
            raise CallFailed(path, "UNAVAILABLE", "the process has ended")
        if lived < behaviour.healthy_after:
            raise CallFailed(path, "UNAVAILABLE", "still loading")
        if any(since <= lived < until for since, until in behaviour.unhealthy_during):
            raise CallFailed(path, "UNAVAILABLE", "unwell")
        if path == HEALTH:
            return backend_pb2.Reply(message=b"OK")
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)

    @asynccontextmanager
    async def unary_stream(
        self, path: str, request: Any, reply_type: Any, *, timeout: float | None = None, metadata: Any = None
    ) -> AsyncIterator[AsyncIterator[Any]]:
        async def replies() -> AsyncIterator[Any]:
            yield await self._answer(path, request, reply_type, timeout)

        await trio.lowlevel.checkpoint()
        yield replies()

    async def _answer(self, path: str, request: Any, reply_type: Any, timeout: float | None) -> Any:
        self.child.calls.append((trio.current_time(), path, request))
        with trio.move_on_after(math.inf if timeout is None else timeout):
            await trio.sleep(self.child.behaviour.warm_up_takes)
            if self.child.behaviour.warm_up_error is not None:
                raise self.child.behaviour.warm_up_error
            succeeds = "success" in reply_type.DESCRIPTOR.fields_by_name
            return reply_type(success=True) if succeeds else reply_type()
        raise CallFailed(path, "DEADLINE_EXCEEDED", f"no answer within {timeout:g} s")

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class FakeSystem:
    """Stands in for the operating system: give it to ``open_supervisor(system=...)``.

    Args:
        behaviours: How the processes behave, one per launch in that order; the last one goes on for all that follow.
            Or a function that says it for each launch.

    Attributes:
        children: Every process launched, in order.
        taken: Ports that a stranger holds.
        held: Ports held right now; empty when nothing leaked.
    """

    def __init__(
        self,
        behaviours: FakeBackend | Iterable[FakeBackend] | Callable[[Launch], FakeBackend] = FakeBackend(),  # frozen
    ) -> None:
        self._behave = behaviours if callable(behaviours) else _one_after_the_other(behaviours)
        self.children: list[FakeChild] = []
        self.taken: set[int] = set()
        self.held: set[int] = set()
        self.guard_lost: Callable[[int, int | None], None] | None = None

    @asynccontextmanager
    async def open(self, on_guard_lost: Callable[[int, int | None], None]) -> AsyncIterator[None]:
        await trio.lowlevel.checkpoint()
        self.guard_lost = on_guard_lost
        yield

    def hold_port(self, port: int) -> FakePort | None:
        port = port or max(self.held | {39999}) + 1
        if port in self.taken or port in self.held:
            return None
        self.held.add(port)
        return FakePort(port, self.held)

    def launch(self, launch: Launch, attempt: int) -> FakeChild:
        behaviour = self._behave(launch)
        if behaviour.launch_error is not None:
            raise behaviour.launch_error
        child = FakeChild(1000 + len(self.children), launch.port, behaviour, dict(launch.environment))
        self.children.append(child)
        return child

    async def wait_for_listener(self, port: int) -> None:
        child = self._child_on(port)
        await trio.sleep_until(child.launched_at + child.behaviour.listens_after)

    def identify(self, child: Any, port: int, channel: Any) -> Identity:
        return self._child_on(port).behaviour.identity

    def channel(self, host: str, port: int, token: str | None) -> Any:
        return FakeChannel(self._child_on(port))

    def running(self) -> list[FakeChild]:
        """The processes that have not ended."""
        return [child for child in self.children if not child.has_ended()]

    def _child_on(self, port: int) -> FakeChild:
        return next(child for child in reversed(self.children) if child.port == port)


def _one_after_the_other(behaviours: FakeBackend | Iterable[FakeBackend]) -> Callable[[Launch], FakeBackend]:
    endless = _last_repeated(behaviours)
    return lambda launch: next(endless)


def _last_repeated(behaviours: FakeBackend | Iterable[FakeBackend]) -> Iterator[FakeBackend]:
    last = FakeBackend()
    for last in [behaviours] if isinstance(behaviours, FakeBackend) else behaviours:
        yield last
    while True:
        yield last
