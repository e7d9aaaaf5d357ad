"""Who plays in the scenes of the table: the backends, and strategies that do as they are told."""

from __future__ import annotations

import random
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import attrs
import trio

import trio_sup
from trio_sup import BackendSpec, Liveness, ProcessKey, Readiness
from trio_sup.strategies import AttemptEnd, GiveUp, ProbeTarget, RestartAfter, WarmUpTarget

BACKOFF_SECONDS = 600.0
"""Until a failed one is started again; the next time it is twice that."""

READINESS_TIMEOUT = 600.0
IDLE_TIMEOUT = 300.0
GRACE = 450.0
HEALTHY_AFTER = 50.0
PERIOD = 5.0
"""Seconds between two checks of a ready one; two checks in a row change what is believed."""

WINDOW = 100.0
"""Seconds after an event for which it is watched what comes of it."""

KEY = ProcessKey("chat")
BASE = ProcessKey("base")
TWIN = ProcessKey("twin")
GUEST = ProcessKey("guest")


@attrs.define(eq=False)
class ToldProbe:
    """A probe that says what it is told to say.

    Attributes:
        calls: How often it was asked.
    """

    passes: bool = True
    calls: int = 0
    needs_listener = True
    speaks_grpc = True

    async def check(self, target: ProbeTarget) -> None:
        self.calls += 1
        await trio.lowlevel.checkpoint()
        if not self.passes:
            raise RuntimeError("told to fail")


@attrs.define(eq=False)
class ToldWarmUp:
    """A warm-up that succeeds, unless it is told to fail."""

    succeeds: bool = True

    def budget(self, spec: BackendSpec) -> float:
        return 10.0

    async def warm_up(self, target: WarmUpTarget) -> None:
        await trio.lowlevel.checkpoint()
        if not self.succeeds:
            raise RuntimeError("told to fail")


@attrs.define(eq=False)
class ToldRestarts:
    """A restart policy that decides what it is told to decide."""

    decision: RestartAfter | GiveUp = attrs.field(factory=lambda: RestartAfter(BACKOFF_SECONDS))

    def decide(self, ends: Sequence[AttemptEnd], rng: random.Random) -> RestartAfter | GiveUp:
        return self.decision


@attrs.define(eq=False, kw_only=True)
class Cast:
    """The specifications of one scene, and what their strategies are told.

    Attributes:
        spec: The backend whose slot is looked at.
        base: What it needs, and is bound to.
        twin: Its sibling; their group is restarted as a whole. It is older, so it does not wait for it.
        guest: One that has nothing to do with any of them.
    """

    directory: Path
    bound: bool = True
    drained: bool = False
    probe: ToldProbe = attrs.field(factory=ToldProbe)
    live_probe: ToldProbe = attrs.field(factory=ToldProbe)
    warm_up: ToldWarmUp = attrs.field(factory=ToldWarmUp)
    base_restarts: ToldRestarts = attrs.field(factory=ToldRestarts)
    twin_restarts: ToldRestarts = attrs.field(factory=ToldRestarts)
    spec: BackendSpec = attrs.field(init=False)
    base: BackendSpec = attrs.field(init=False)
    twin: BackendSpec = attrs.field(init=False)
    guest: BackendSpec = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        command = [sys.executable]
        unchecked = Readiness(timeout=100 * READINESS_TIMEOUT, interval=PERIOD, period=0)
        self.spec = BackendSpec(
            name="chat",
            command=command,
            directory=self.directory,
            grace=GRACE,
            needs=["base"],
            bind=self.bound,
            group="pair",
            idle_timeout=IDLE_TIMEOUT,
            warm_up=[self.warm_up],
            stop_policy={"strategy": "drain", "drain_timeout": 10 * WINDOW} if self.drained else None,
            restart_policy={
                "strategy": "on-failure",
                "delay": BACKOFF_SECONDS,
                "max_delay": 10 * BACKOFF_SECONDS,
                "jitter": 0,
                "healthy_after": HEALTHY_AFTER,
                "limit": 0,
                "max_start_failures": 2,
            },
            readiness=Readiness(
                probe=self.probe,
                timeout=READINESS_TIMEOUT,
                progress=["memory"],
                interval=PERIOD,
                period=PERIOD,
                failure_threshold=2,
                success_threshold=2,
            ),
            liveness=Liveness(probe=self.live_probe, period=PERIOD, failure_threshold=2, busy_timeout=10 * WINDOW),
        )
        self.base = BackendSpec(
            name="base", command=command, readiness=unchecked, restart_policy=self.base_restarts, pinned=True
        )
        self.twin = BackendSpec(
            name="twin",
            command=command,
            readiness=unchecked,
            restart_policy=self.twin_restarts,
            pinned=True,
            group="pair",
        )
        self.guest = BackendSpec(name="guest", command=command, readiness=unchecked)

    @property
    def other_spec(self) -> BackendSpec:
        """Another specification for the slot that is looked at."""
        return attrs.evolve(self.spec, grace=GRACE + 1)


@attrs.define(eq=False)
class Caller:
    """A task that calls the supervisor, and what it was told.

    Attributes:
        told: As in `state_table.Move`.
        error: What was raised, if anything was.
    """

    told: str = "still waits"
    error: trio_sup.TrioSupError | None = None
    done: trio.Event = attrs.field(factory=trio.Event)
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    let_go: trio.Event = attrs.field(factory=trio.Event)

    async def start(self, sup: trio_sup.Supervisor, spec: BackendSpec | ProcessKey, *, replace: bool = False) -> None:
        async def call() -> str:
            await sup.start(spec, replace=replace)
            return "ready"

        await self._note(call)

    async def stop(self, sup: trio_sup.Supervisor, *, force: bool = False) -> None:
        async def call() -> str:
            reports = await sup.stop(KEY, force=force)
            return "gone" if reports else "nothing there"

        await self._note(call)

    async def undefine(self, sup: trio_sup.Supervisor) -> None:
        async def call() -> str:
            reports = await sup.undefine(KEY)
            return "gone" if reports else "nothing there"

        await self._note(call)

    async def stop_all(self, sup: trio_sup.Supervisor) -> None:
        async def call() -> str:
            reports = await sup.stop_all(force=True)
            return "gone" if reports else "nothing there"

        await self._note(call)

    async def use(self, sup: trio_sup.Supervisor) -> None:
        async def call() -> str:
            async with sup.use(KEY):
                self.told = "leased"
                await self.let_go.wait()
            return "leased"

        await self._note(call)

    async def _note(self, call: Callable[[], Awaitable[str]]) -> None:
        try:
            with self.scope:
                self.told = await call()
            if self.scope.cancelled_caught:
                self.told = "cancelled"
        except trio_sup.TrioSupError as error:
            self.told, self.error = type(error).__name__, error
        finally:
            self.done.set()
