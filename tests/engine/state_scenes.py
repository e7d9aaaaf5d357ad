"""How a slot is brought into each phase, on fake processes and a virtual clock."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

import trio_sup
from tests.engine.state_cast import BASE, KEY, READINESS_TIMEOUT, TWIN, WINDOW, Caller, Cast
from trio_sup import Backend, ExitStatus, Phase, ProcessKey, events
from trio_sup.strategies import Launch
from trio_sup.testing import FakeBackend, FakeChild, FakeSystem

FAILED = ExitStatus(code=1)


@attrs.define(eq=False)
class Scene:
    """One supervisor, the slot that is looked at, and those around it.

    Attributes:
        behaviours: How the processes launched from now on behave, by model.
        seen: All events so far, each with its instant.
        starter: Who had it started and waits for it.
        stopper: Who had it stopped.
        lease: Who holds it in use.
        closing, closed: Set to have the supervisor close, and once it has.
    """

    cast: Cast
    nursery: trio.Nursery
    behaviours: dict[str, FakeBackend] = attrs.field(factory=dict)
    seen: list[tuple[float, events.Event]] = attrs.field(factory=list)
    starter: Caller | None = None
    stopper: Caller | None = None
    lease: Caller | None = None
    callers: list[Caller] = attrs.field(factory=list)
    closing: trio.Event = attrs.field(factory=trio.Event)
    closed: trio.Event = attrs.field(factory=trio.Event)
    system: FakeSystem = attrs.field(init=False)
    sup: trio_sup.Supervisor = attrs.field(init=False)
    _launched: list[ProcessKey] = attrs.field(factory=list)
    _news: trio.Event = attrs.field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        self.system = FakeSystem(self._behave)

    def _behave(self, launch: Launch) -> FakeBackend:
        behaviour = self.behaviours.get(launch.key.model, FakeBackend())
        if behaviour.launch_error is None:
            self._launched.append(launch.key)
        return behaviour

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        async with trio_sup.open_supervisor(
            system=self.system, install_lock="memory", groups={"pair": "one-for-all"}, max_running=3
        ) as self.sup:
            for spec in (self.cast.base, self.cast.twin, self.cast.spec, self.cast.guest):
                self.sup.define(spec)
            self.nursery.start_soon(self._follow, self.sup.events())
            task_status.started()
            await self.closing.wait()
        self.closed.set()

    async def _follow(self, stream: trio_sup.engine.EventStream) -> None:
        async for event in stream:
            self.seen.append((trio.current_time(), event))
            self._news.set()

    # ---- looking

    def backend(self, key: ProcessKey = KEY) -> Backend | None:
        """What is said of a slot now, without what passes by itself."""
        found = next((backend for backend in self.sup.backends if backend.key == key), None)
        return None if found is None else attrs.evolve(found, next_start_at=None)

    def phase(self, key: ProcessKey = KEY) -> Phase:
        found = self.backend(key)
        return Phase.GONE if found is None else found.phase

    def children(self, key: ProcessKey = KEY) -> list[FakeChild]:
        """All that was ever launched for a slot, the newest last."""
        return [child for of, child in zip(self._launched, self.system.children, strict=True) if of == key]

    def child(self, key: ProcessKey = KEY) -> FakeChild:
        return self.children(key)[-1]

    def moves(self, since: int) -> list[events.BackendMoved]:
        """The moves of the slot since so many events were seen."""
        moves = (event for _, event in self.seen[since:] if isinstance(event, events.BackendMoved))
        return [move for move in moves if move.key == KEY]

    async def until(self, phase: Phase, key: ProcessKey = KEY) -> None:
        with trio.fail_after(10 * READINESS_TIMEOUT):
            while self.phase(key) is not phase:
                self._news = trio.Event()
                await self._news.wait()
        await wait_all_tasks_blocked()

    # ---- doing

    def call(self, fn: Callable[..., Awaitable[None]], *arguments: Any, **options: Any) -> Caller:
        """Have a caller call ``fn(caller, supervisor, …)``, one of the methods of `Caller`."""
        caller = Caller()
        self.callers.append(caller)
        self.nursery.start_soon(partial(fn, caller, self.sup, *arguments, **options))
        return caller

    def change(self, child: FakeChild, **fields: Any) -> None:
        """Have a process behave otherwise from now on."""
        child.behaviour = attrs.evolve(child.behaviour, **fields)

    def let_pass(self) -> None:
        """Whatever has kept the slot, or what it needs, from being ready does so no longer."""
        self.behaviours.clear()
        self.cast.probe.passes = self.cast.live_probe.passes = self.cast.warm_up.succeeds = True
        for child in self.system.running():
            self.change(child, healthy_after=0)

    def swap_files(self) -> None:
        """Put a new directory in the place of the one that it runs from."""
        directory = self.cast.directory
        directory.rename(directory.with_name("old"))
        directory.mkdir()

    # ---- the way to each phase

    async def waiting(self) -> None:
        self.behaviours["base"] = FakeBackend(healthy_after=math.inf)
        await self.sup.start(TWIN)
        self.starter = self.call(Caller.start, self.cast.spec)
        await self.until(Phase.STARTING, BASE)
        await self.until(Phase.WAITING)

    async def waiting_restarted(self) -> None:
        await self.ready()
        self.child(BASE).exit(FAILED)
        await self.until(Phase.WAITING)
        await self.until(Phase.BACKOFF, BASE)

    async def starting(self) -> None:
        await self._others()
        self.cast.probe.passes = False
        self.starter = self.call(Caller.start, self.cast.spec)
        await self.until(Phase.STARTING)

    async def starting_for_the_last_time(self) -> None:
        await self.backoff_never_ready()
        self.cast.probe.passes = False
        await self.until(Phase.STARTING)

    async def ready(self) -> None:
        await self._others()
        self.starter = self.call(Caller.start, self.cast.spec)
        await self.until(Phase.READY)

    async def ready_leased(self) -> None:
        await self.ready()
        self.lease = self.call(Caller.use)
        await wait_all_tasks_blocked()
        assert self.lease.told == "leased"

    async def ready_at_work(self) -> None:
        self.behaviours["chat"] = FakeBackend(works_from=0)
        await self.ready()

    async def ready_after_a_failure(self) -> None:
        await self.backoff()
        await self.until(Phase.READY)

    async def unready(self) -> None:
        await self.ready()
        await self._lose_readiness()

    async def unready_leased(self) -> None:
        await self.ready_leased()
        await self._lose_readiness()

    async def unready_after_a_failure(self) -> None:
        await self.ready_after_a_failure()
        await self._lose_readiness()

    async def stopping(self) -> None:
        await self.ready()
        await self._stop()

    async def stopping_leased(self) -> None:
        await self.ready_leased()
        await self._stop()

    async def stopping_drained(self) -> None:
        await self.ready_leased()
        self.stopper = self.call(Caller.stop)
        await self.until(Phase.STOPPING)

    async def stopping_not_ready_before(self) -> None:
        await self.starting()
        await trio.sleep(READINESS_TIMEOUT - WINDOW)
        await self._stop()

    async def stopping_start_queued(self) -> None:
        await self.stopping()
        self.starter = self.call(Caller.start, self.cast.spec)
        await wait_all_tasks_blocked()

    async def stopping_not_asked(self) -> None:
        await self.ready()
        self.change(self.child(), stops_after=math.inf)
        self.cast.live_probe.passes = False
        await self.until(Phase.STOPPING)

    async def stopping_for_the_last_time(self) -> None:
        await self.starting_for_the_last_time()
        self.change(self.child(), stops_after=math.inf)
        await self.until(Phase.STOPPING)

    async def stopping_with_its_sibling(self) -> None:
        await self.ready()
        self.change(self.child(), stops_after=math.inf)
        self.child(TWIN).exit(FAILED)
        await self.until(Phase.STOPPING)

    async def stop_failed(self) -> None:
        await self.ready()
        await self._stop_in_vain()

    async def stop_failed_leased(self) -> None:
        await self.ready_leased()
        await self._stop_in_vain()

    async def surviving(self, way: Callable[[Scene], Awaitable[None]]) -> None:
        """As *way*, which ends in STOPPING, and on until SIGKILL has not helped either."""
        await way(self)
        self.change(self.child(), survives_kill=True)
        await self.until(Phase.STOP_FAILED)

    async def backoff(self) -> None:
        await self.ready()
        await self._fail()

    async def backoff_leased(self) -> None:
        await self.ready_leased()
        await self._fail()

    async def backoff_never_ready(self) -> None:
        await self._others()
        self.behaviours["chat"] = FakeBackend(listens_after=math.inf, exits_after=1, exit_code=1)
        self.starter = self.call(Caller.start, self.cast.spec)
        await self.until(Phase.BACKOFF)
        self.behaviours.clear()
        await self.until(Phase.READY, TWIN)

    async def given_up(self) -> None:
        await self.backoff()
        await self._fail_until_given_up()

    async def given_up_leased(self) -> None:
        await self.backoff_leased()
        await self._fail_until_given_up()

    async def gone(self) -> None:
        await self.ready()
        await self.sup.stop(KEY)

    async def gone_leased(self) -> None:
        await self.ready_leased()
        await self.sup.stop(KEY)

    async def _others(self) -> None:
        await self.sup.start(self.cast.base)
        await self.sup.start(self.cast.twin)

    async def _lose_readiness(self) -> None:
        self.cast.probe.passes = False
        await self.until(Phase.UNREADY)

    async def _stop(self) -> None:
        self.change(self.child(), stops_after=math.inf)
        self.stopper = self.call(Caller.stop)
        await self.until(Phase.STOPPING)

    async def _stop_in_vain(self) -> None:
        self.change(self.child(), stops_after=math.inf, survives_kill=True)
        self.stopper = self.call(Caller.stop, force=True)
        await self.until(Phase.STOP_FAILED)

    async def _fail(self) -> None:
        self.child().exit(FAILED)
        await self.until(Phase.BACKOFF)
        await self.until(Phase.READY, TWIN)  # it was ended together with it, and is back

    async def _fail_until_given_up(self) -> None:
        self.behaviours["chat"] = FakeBackend(listens_after=math.inf, exits_after=1, exit_code=1)
        await self.until(Phase.GIVEN_UP)
        self.behaviours.clear()


WAYS: Mapping[str, Callable[[Scene], Awaitable[None]]] = {
    "waiting": Scene.waiting,
    "waiting, restarted": Scene.waiting_restarted,
    "starting": Scene.starting,
    "starting, for the last time": Scene.starting_for_the_last_time,
    "ready": Scene.ready,
    "ready, leased": Scene.ready_leased,
    "ready, at work": Scene.ready_at_work,
    "ready, not bound": Scene.ready,
    "ready, after a failure": Scene.ready_after_a_failure,
    "unready": Scene.unready,
    "unready, leased": Scene.unready_leased,
    "unready, after a failure": Scene.unready_after_a_failure,
    "stopping": Scene.stopping,
    "stopping, leased": Scene.stopping_leased,
    "stopping, drained": Scene.stopping_drained,
    "stopping, not ready before": Scene.stopping_not_ready_before,
    "stopping, start queued": Scene.stopping_start_queued,
    "stopping, not asked": Scene.stopping_not_asked,
    "stopping, for the last time": Scene.stopping_for_the_last_time,
    "stopping, with its sibling": Scene.stopping_with_its_sibling,
    "stop-failed": Scene.stop_failed,
    "stop-failed, leased": Scene.stop_failed_leased,
    "stop-failed, not asked": partial(Scene.surviving, way=Scene.stopping_not_asked),
    "stop-failed, for the last time": partial(Scene.surviving, way=Scene.stopping_for_the_last_time),
    "stop-failed, with its sibling": partial(Scene.surviving, way=Scene.stopping_with_its_sibling),
    "backoff": Scene.backoff,
    "backoff, leased": Scene.backoff_leased,
    "backoff, never ready": Scene.backoff_never_ready,
    "given-up": Scene.given_up,
    "given-up, leased": Scene.given_up_leased,
    "gone": Scene.gone,
    "gone, leased": Scene.gone_leased,
}
"""How each situation is reached; each phase has one of its own name, which is the plainest way."""


@asynccontextmanager
async def scene_of(situation: str, directory: Path) -> AsyncIterator[Scene]:
    """The scene in which the slot is in *situation*; at its end nothing is left of any process or port."""
    directory.mkdir()
    cast = Cast(directory=directory, bound="not bound" not in situation, drained="drained" in situation)
    async with trio.open_nursery() as nursery:
        scene = Scene(cast, nursery)
        await nursery.start(scene.run)
        try:
            await WAYS[situation](scene)
            yield scene
        finally:
            # The supervisor stays with what survives: it must be able to close also when the test has failed.
            for child in scene.system.children:
                child.release()
            scene.closing.set()
            for caller in scene.callers:
                caller.scope.cancel()
        await scene.closed.wait()
        assert scene.system.running() == []
        assert all(child.closed for child in scene.system.children)
        assert not scene.system.held
