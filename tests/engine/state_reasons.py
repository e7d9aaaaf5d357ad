"""The reasons that the table gives, and the proof of each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

from tests.engine.state_cast import (
    BACKOFF_SECONDS,
    BASE,
    GUEST,
    IDLE_TIMEOUT,
    KEY,
    READINESS_TIMEOUT,
    TWIN,
    WINDOW,
    Caller,
)
from tests.engine.state_scenes import FAILED, Scene
from trio_sup import Backend, Cause, Phase, events


@attrs.frozen
class Happened:
    """What came of an event that is to be ignored.

    Attributes:
        scene: As it is now.
        event: The name of what happened.
        before, after: What was said of the slot before the event, and once nothing happened any more.
        launched: How many processes it had had before.
        caller: Whose call the event is.
        since: How many events had been seen before.
    """

    scene: Scene
    event: str
    before: Backend | None
    after: Backend | None
    launched: int
    caller: Caller | None
    since: int

    def assert_same(self) -> None:
        """Nothing of what is said of the slot has changed."""
        assert self.after == self.before
        assert len(self.scene.children()) == self.launched

    async def assert_moves(self, *path: Phase) -> None:
        """The slot moves along *path* now."""
        since = len(self.scene.seen)
        await trio.sleep(WINDOW)
        assert [move.phase for move in self.scene.moves(since)] == list(path)

    def assert_told(self, *told: str) -> None:
        assert self.caller is not None
        assert self.caller.told in told


Claim = Callable[[Happened], Awaitable[None]]
Fact = Callable[[Scene], Awaitable[None]]
CLAIMS: dict[str, Claim] = {}
"""Why an event is ignored; each proves that it is, and what is said about what comes later."""
FACTS: dict[str, Fact] = {}
"""Why an event is impossible; each proves that it is so in that scene."""

_STARTS = (Phase.WAITING, Phase.STARTING, Phase.READY)


def claim(reason: str) -> Callable[[Claim], Claim]:
    def note(proof: Claim) -> Claim:
        CLAIMS[reason] = proof
        return proof

    return note


def fact(reason: str) -> Callable[[Fact], Fact]:
    def note(proof: Fact) -> Fact:
        FACTS[reason] = proof
        return proof

    return note


# ---- ignored


@claim("it is so already")
@claim("it is refused")
@claim("it takes up no room")
@claim("idle is only what has become ready")
async def nothing_changes(happened: Happened) -> None:
    happened.assert_same()


@claim("there is no slot")
async def nothing_is_there(happened: Happened) -> None:
    assert happened.after is None
    happened.assert_same()


@claim("it joins the start that is under way")
async def one_start_for_both(happened: Happened) -> None:
    happened.assert_same()
    scene = happened.scene
    scene.let_pass()
    await scene.until(Phase.READY)
    happened.assert_told("ready", "leased")
    assert scene.starter is not None
    assert scene.starter.told == "ready"
    assert len(scene.children()) == 1


@claim("it waits until it is back in rotation")
async def told_when_it_is_back(happened: Happened) -> None:
    happened.assert_same()
    happened.scene.let_pass()
    await happened.assert_moves(Phase.READY)
    happened.assert_told("ready", "leased")


@claim("it waits until the end that has begun is over, and is started then")
async def started_after_the_end(happened: Happened) -> None:
    happened.assert_same()
    happened.scene.let_pass()
    happened.scene.child().exit()
    await happened.assert_moves(*_STARTS)
    happened.assert_told("ready", "leased")
    assert happened.scene.stopper is not None
    assert happened.scene.stopper.told == "gone"


@claim("it joins the end that has begun")
async def one_end_for_both(happened: Happened) -> None:
    happened.assert_same()
    happened.scene.child().exit()
    await happened.assert_moves(Phase.GONE)
    happened.assert_told("gone")
    starter = happened.scene.starter
    assert starter is None or starter.told in ("ready", "StoppedDuringStartup")


@claim("its end goes on as it would have")
async def the_end_goes_on(happened: Happened) -> None:
    before = happened.before and attrs.evolve(happened.before, leases=0)
    assert happened.after == before
    assert len(happened.scene.children()) == happened.launched
    happened.scene.let_pass()
    happened.scene.child().release()
    await happened.assert_moves(Phase.GONE)


@claim("the deadline does not run while it waits")
async def it_may_still_start(happened: Happened) -> None:
    happened.assert_same()
    happened.scene.let_pass()
    await happened.assert_moves(*_STARTS)


@claim("the deadline moves")
async def a_later_deadline(happened: Happened) -> None:
    happened.assert_same()
    child = happened.scene.child()
    assert trio.current_time() > child.launched_at + READINESS_TIMEOUT
    since = len(happened.scene.seen)
    await trio.sleep(READINESS_TIMEOUT)
    assert [move.phase for move in happened.scene.moves(since)] == [Phase.STOPPING, Phase.BACKOFF]
    stopping = next(move for move in happened.scene.moves(since) if move.phase is Phase.STOPPING)
    (ended_at,) = (at for at, event in happened.scene.seen[since:] if event is stopping)
    half = READINESS_TIMEOUT / 2
    assert half + 29 <= ended_at - child.launched_at - READINESS_TIMEOUT <= half + 31


@claim("others of its tree are still there")
async def until_the_last(happened: Happened) -> None:
    happened.assert_same()
    happened.scene.child().release()
    await happened.assert_moves(Phase.GONE)


@claim("the next backoff is short again")
async def a_short_backoff(happened: Happened) -> None:
    happened.assert_same()
    assert await _next_backoff(happened.scene) == BACKOFF_SECONDS


@claim("only a stretch in rotation counts")
async def a_longer_backoff(happened: Happened) -> None:
    happened.assert_same()
    assert await _next_backoff(happened.scene) == 2 * BACKOFF_SECONDS


async def _next_backoff(scene: Scene) -> float:
    since = len(scene.seen)
    scene.child().exit(FAILED)
    await scene.until(Phase.BACKOFF)
    (event,) = (move for move in scene.moves(since) if isinstance(move, events.BackendBackoff))
    return event.delay


@claim("it waits until its need is met")
async def ready_in_the_end(happened: Happened) -> None:
    happened.assert_same()
    happened.scene.let_pass()
    await happened.scene.until(Phase.READY)
    assert len(happened.scene.children()) == 1


@claim("it rests, and looks at the others when it is started next")
async def others_count_at_the_next_start(happened: Happened) -> None:
    happened.assert_same()
    caller = happened.scene.call(Caller.start, happened.scene.cast.spec)
    await trio.sleep(1)
    backend = happened.scene.backend()
    other = "twin#0" if happened.event == "sibling failed" else "base"
    if caller.done.is_set():
        assert caller.told in ("NeedFailed", "GivenUp")
        assert other in str(caller.error)
    else:
        assert backend is not None
        assert backend.phase is Phase.WAITING
        assert other in (backend.waits_for or "")


@claim("what starts, or is to start again, is not ended to make room")
async def the_newcomer_is_refused(happened: Happened) -> None:
    happened.assert_same()
    assert happened.caller is not None
    assert str(KEY) in str(happened.caller.error)


@claim("its room is free once its end is over")
async def the_newcomer_follows(happened: Happened) -> None:
    happened.assert_same()
    guest = happened.scene.backend(GUEST)
    assert guest is not None
    assert guest.phase is Phase.WAITING
    assert str(KEY) in (guest.waits_for or "")
    happened.scene.child().exit()
    await happened.assert_moves(Phase.GONE)
    happened.assert_told("ready")


@claim("it is counted")
async def one_lease_more(happened: Happened) -> None:
    assert happened.before is not None
    assert happened.after == attrs.evolve(happened.before, leases=happened.before.leases + 1)


@claim("it waits until the backoff is due")
async def leased_when_it_is_back(happened: Happened) -> None:
    happened.assert_same()
    await trio.sleep(BACKOFF_SECONDS)
    assert happened.scene.phase() is Phase.READY
    happened.assert_told("leased")


@claim("its idle time begins")
async def ended_when_idle(happened: Happened) -> None:
    assert happened.before is not None
    assert happened.before.leases == 1
    assert happened.after == attrs.evolve(happened.before, leases=0)
    await trio.sleep(IDLE_TIMEOUT - WINDOW - 1)
    assert happened.scene.phase() is happened.before.phase
    await happened.assert_moves(Phase.STOPPING, Phase.GONE)
    assert happened.scene.sup.exit_reports(KEY)[-1].cause is Cause.IDLE


@claim("it is in use")
async def idle_once_it_is_let_go(happened: Happened) -> None:
    happened.assert_same()
    assert happened.scene.lease is not None
    happened.scene.lease.let_go.set()
    await trio.sleep(IDLE_TIMEOUT + 1)
    assert happened.scene.phase() is Phase.GONE


@claim("nothing of it is used any more")
async def no_lease_left(happened: Happened) -> None:
    assert happened.before is not None
    assert happened.before.leases == 1
    assert happened.after == attrs.evolve(happened.before, leases=0)


@claim("it counts from the next start")
async def the_next_start_is_new(happened: Happened) -> None:
    happened.assert_same()
    scene = happened.scene
    scene.let_pass()
    if happened.before is not None and happened.before.phase in (Phase.STOPPING, Phase.STOP_FAILED):
        scene.child().release()
    await trio.sleep(WINDOW)
    # What could end has ended, and what could start is ready.
    caller = scene.call(Caller.start, KEY, replace=True)
    await trio.sleep(WINDOW)
    backend = scene.backend()
    assert caller.told == "ready"
    assert backend is not None
    if happened.event == "configuration changed":
        assert backend.spec == scene.cast.other_spec
    if happened.before is not None and happened.before.phase is not Phase.WAITING:
        assert len(scene.children()) > happened.launched


@claim("another one still waits for it")
async def the_other_is_told(happened: Happened) -> None:
    happened.assert_same()
    scene = happened.scene
    scene.let_pass()
    if happened.after is not None and happened.after.phase is Phase.STOPPING:
        scene.child().exit()
    await scene.until(Phase.READY)
    assert scene.starter is not None
    assert scene.starter.told in ("ready", "leased")


@claim("it was ready once, and is wanted without any waiter")
async def ready_without_waiters(happened: Happened) -> None:
    happened.assert_same()
    happened.scene.let_pass()
    await trio.sleep(BACKOFF_SECONDS if happened.after and happened.after.phase is Phase.BACKOFF else WINDOW)
    assert happened.scene.phase() is Phase.READY


@claim("the processes are not touched")
async def untouched(happened: Happened) -> None:
    happened.assert_same()
    (told,) = (event for _, event in happened.scene.seen[happened.since :] if isinstance(event, events.GuardLost))
    assert (told.pid, told.replacement) == (4711, 4712)


@claim("what is at work is alive")
async def checks_go_on(happened: Happened) -> None:
    happened.assert_same()
    calls = happened.scene.cast.live_probe.calls
    await trio.sleep(WINDOW)
    assert happened.scene.cast.live_probe.calls > calls


@claim("it is not bound to what it needs")
async def it_runs_on(happened: Happened) -> None:
    happened.assert_same()
    assert happened.scene.phase(BASE) is Phase.BACKOFF


# ---- impossible


def _living(scene: Scene) -> Sequence[object]:
    return [child for child in scene.children() if not child.closed]


@fact("there is no process")
async def no_process(scene: Scene) -> None:
    backend = scene.backend()
    assert backend is None or backend.pid is None
    assert _living(scene) == []


@fact("it has its process")
async def a_process(scene: Scene) -> None:
    backend = scene.backend()
    assert backend is not None
    assert backend.pid == scene.child().pid
    assert len(_living(scene)) == 1


@fact("no start is under way")
async def ready_or_ending(scene: Scene) -> None:
    backend = scene.backend()
    assert backend is not None
    assert backend.start_seconds is not None


@fact("it has not been ready yet")
async def never_ready(scene: Scene) -> None:
    backend = scene.backend()
    assert backend is not None
    assert backend.start_seconds is None


@fact("its readiness is not checked")
async def no_readiness_checks(scene: Scene) -> None:
    calls = scene.cast.probe.calls
    await trio.sleep(WINDOW)
    assert scene.cast.probe.calls == calls


@fact("its liveness is not checked")
async def no_liveness_checks(scene: Scene) -> None:
    calls = scene.cast.live_probe.calls
    await trio.sleep(WINDOW)
    assert scene.cast.live_probe.calls == calls


@fact("nobody waits for it")
async def all_were_told(scene: Scene) -> None:
    """Nobody does, and whoever comes is told at once, or as soon as one more try has shown the same."""
    assert all(caller.done.is_set() for caller in scene.callers)
    caller = scene.call(Caller.start, scene.cast.spec)
    await trio.sleep(WINDOW)
    assert caller.done.is_set()


@fact("nothing has survived")
async def no_survivors(scene: Scene) -> None:
    backend = scene.backend()
    assert backend is None or not backend.survivors
    assert not any(isinstance(event, events.BackendStopFailed) for _, event in scene.seen)


@fact("something has survived")
async def survivors(scene: Scene) -> None:
    backend = scene.backend()
    assert backend is not None
    assert [survivor.pid for survivor in backend.survivors] == [scene.child().pid]
    assert not scene.child().has_ended()


@fact("its end has not begun")
async def not_asked_to_end(scene: Scene) -> None:
    assert scene.child() in scene.system.running()
    assert (scene.child().signals, scene.child().freed_at) == ([], [])


@fact("no backoff runs")
async def no_backoff(scene: Scene) -> None:
    assert all(backend.next_start_at is None for backend in scene.sup.backends if backend.key == KEY)


@fact("what it needs is ready")
async def need_met(scene: Scene) -> None:
    assert scene.phase(BASE) is Phase.READY


@fact("its sibling has no process")
async def sibling_rests(scene: Scene) -> None:
    sibling = scene.backend(TWIN)
    assert sibling is None or sibling.pid is None
    assert all(child.closed for child in scene.children(TWIN))


@fact("nobody has had a lease on it")
async def no_leases(scene: Scene) -> None:
    backend = scene.backend()
    assert backend is not None
    assert backend.leases == 0
    assert not any(isinstance(event, events.BackendReady) and event.key == KEY for _, event in scene.seen)


@fact("a stop is over at once")
async def stopped_at_once(scene: Scene) -> None:
    began, caller = trio.current_time(), scene.call(Caller.stop)
    await wait_all_tasks_blocked()
    assert caller.told in ("gone", "nothing there")
    assert trio.current_time() == began
