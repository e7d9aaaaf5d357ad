"""What each event of the table does in a scene."""

from __future__ import annotations

import errno
import math
from collections.abc import Awaitable, Callable

import trio
from trio.testing import wait_all_tasks_blocked

from tests.engine.state_cast import (
    BACKOFF_SECONDS,
    BASE,
    GRACE,
    HEALTHY_AFTER,
    IDLE_TIMEOUT,
    KEY,
    READINESS_TIMEOUT,
    TWIN,
    Caller,
)
from tests.engine.state_scenes import FAILED, Scene
from trio_sup import ExitStatus, Phase
from trio_sup.strategies import GiveUp
from trio_sup.testing import FakeBackend

Act = Callable[[Scene], Awaitable[Caller | None]]
ACTS: dict[str, Act] = {}
"""For each event, how it is brought about; the result is the caller whose call it is."""


def event(name: str) -> Callable[[Act], Act]:
    def note(act: Act) -> Act:
        ACTS[name] = act
        return act

    return note


@event("start, same spec")
async def start(scene: Scene) -> Caller:
    return scene.call(Caller.start, scene.cast.spec)


@event("start, other spec")
async def start_other(scene: Scene) -> Caller:
    return scene.call(Caller.start, scene.cast.other_spec)


@event("start, other spec, replacing")
async def replace(scene: Scene) -> Caller:
    return scene.call(Caller.start, scene.cast.other_spec, replace=True)


@event("start after files were swapped")
async def start_swapped(scene: Scene) -> Caller:
    scene.swap_files()
    return scene.call(Caller.start, scene.cast.spec)


@event("stop")
async def stop(scene: Scene) -> Caller:
    return scene.call(Caller.stop)


@event("stop with force")
async def stop_with_force(scene: Scene) -> Caller:
    return scene.call(Caller.stop, force=True)


@event("ready")
@event("readiness back")
async def pass_checks(scene: Scene) -> None:
    scene.cast.probe.passes = True


@event("readiness lost")
async def fail_checks(scene: Scene) -> None:
    scene.cast.probe.passes = False


@event("liveness lost")
async def fail_liveness(scene: Scene) -> None:
    scene.cast.live_probe.passes = False


@event("warm-up failed")
async def fail_warm_up(scene: Scene) -> None:
    scene.cast.warm_up.succeeds = False
    scene.cast.probe.passes = True


@event("deadline")
async def pass_deadline(scene: Scene) -> None:
    begun_at = scene.child().launched_at if scene.phase() is Phase.STOPPING else trio.current_time()
    await trio.sleep_until(begun_at + READINESS_TIMEOUT + 1)


@event("progress")
async def show_progress(scene: Scene) -> None:
    """Grow for some seconds in the middle of the time it has, and look again when that time is over."""
    child = scene.child()
    half = READINESS_TIMEOUT / 2
    scene.change(child, works_from=half, works_until=half + 30, work=["memory"])
    await trio.sleep_until(child.launched_at + READINESS_TIMEOUT + 1)


@event("exit 0")
@event("tree gone")
async def exit_0(scene: Scene) -> None:
    scene.child().exit(ExitStatus(code=0))


@event("exit 1")
async def exit_1(scene: Scene) -> None:
    scene.child().exit(FAILED)


@event("exit by a signal")
async def exit_by_a_signal(scene: Scene) -> None:
    scene.child().exit(ExitStatus(signal=11))


@event("leader gone but tree alive")
async def lose_leader(scene: Scene) -> None:
    scene.change(scene.child(), left_children=2)
    scene.child().exit(FAILED)


@event("EADDRINUSE")
async def die_of_taken_port(scene: Scene) -> None:
    scene.child().write(b"bind: Address already in use\n")
    scene.child().exit(FAILED)


@event("backoff due")
async def pass_backoff(scene: Scene) -> None:
    await trio.sleep(BACKOFF_SECONDS)


@event("healthy stretch over")
async def stay_well(scene: Scene) -> None:
    await trio.sleep(HEALTHY_AFTER + 1)


@event("needed backend lost")
async def lose_needed(scene: Scene) -> None:
    scene.child(BASE).exit(FAILED)


@event("needed backend back")
async def needed_is_back(scene: Scene) -> None:
    scene.change(scene.child(BASE), healthy_after=0)


@event("needed backend given up")
async def give_up_needed(scene: Scene) -> None:
    scene.cast.base_restarts.decision = GiveUp("told to")
    if scene.phase(BASE) is Phase.BACKOFF:
        scene.behaviours["base"] = FakeBackend(listens_after=math.inf, exits_after=1, exit_code=1)
        await trio.sleep(BACKOFF_SECONDS)
    else:
        scene.child(BASE).exit(FAILED)


@event("sibling failed")
async def fail_sibling(scene: Scene) -> None:
    scene.child(TWIN).exit(FAILED)


@event("sibling given up")
async def give_up_sibling(scene: Scene) -> None:
    scene.cast.twin_restarts.decision = GiveUp("told to")
    scene.child(TWIN).exit(FAILED)


@event("evicted")
async def need_room(scene: Scene) -> Caller:
    return scene.call(Caller.start, scene.cast.guest)


@event("idle")
async def pass_idle_time(scene: Scene) -> None:
    await trio.sleep(IDLE_TIMEOUT + 1)


@event("lease taken")
async def take_lease(scene: Scene) -> Caller:
    return scene.call(Caller.use)


@event("lease ended")
async def end_lease(scene: Scene) -> None:
    assert scene.lease is not None
    scene.lease.let_go.set()


@event("configuration changed")
async def change_configuration(scene: Scene) -> None:
    scene.sup.define(scene.cast.other_spec)


@event("configuration removed")
async def remove_from_configuration(scene: Scene) -> Caller:
    caller = scene.call(Caller.undefine)
    await wait_all_tasks_blocked()
    assert KEY not in [backend.key for backend in scene.sup.defined]
    return caller


@event("files swapped")
async def swap_files(scene: Scene) -> None:
    scene.swap_files()


@event("launch refused")
async def refuse_launch(scene: Scene) -> Caller | None:
    phase = scene.phase()
    scene.let_pass()
    scene.behaviours["chat"] = FakeBackend(launch_error=OSError(errno.EAGAIN, "no more processes"))
    if phase is Phase.BACKOFF:
        await trio.sleep(BACKOFF_SECONDS)
    return scene.call(Caller.start, scene.cast.spec) if phase in (Phase.GIVEN_UP, Phase.GONE) else None


@event("survivors proven")
async def survive(scene: Scene) -> None:
    scene.change(scene.child(), survives_kill=True)
    await trio.sleep(GRACE)


@event("last survivor ended")
async def end_survivors(scene: Scene) -> None:
    scene.child().release()


@event("cancel of one waiter")
async def cancel_one(scene: Scene) -> None:
    if scene.starter is None or scene.starter.done.is_set():
        scene.starter = scene.call(Caller.use)
    await _cancel(scene, scene.call(Caller.use))


@event("cancel of the last waiter")
async def cancel_the_last(scene: Scene) -> None:
    waits = scene.starter is not None and not scene.starter.done.is_set()
    await _cancel(scene, scene.starter if waits and scene.starter is not None else scene.call(Caller.use))


@event("cancel of a stop")
async def cancel_stop(scene: Scene) -> None:
    if scene.phase() is not Phase.STOPPING:
        scene.change(scene.child(), stops_after=3)
        scene.stopper = scene.call(Caller.stop)
    assert scene.stopper is not None
    await _cancel(scene, scene.stopper)


async def _cancel(scene: Scene, caller: Caller) -> None:
    await wait_all_tasks_blocked()
    caller.scope.cancel()
    await caller.done.wait()
    assert caller.told == "cancelled"


@event("shutdown")
async def shut_down(scene: Scene) -> None:
    scene.closing.set()


@event("second signal")
async def shut_down_and_insist(scene: Scene) -> Caller:
    scene.change(scene.child(), stops_after=math.inf)
    scene.closing.set()
    await trio.sleep(1)
    return scene.call(Caller.stop_all)


@event("guard lost")
async def lose_guard(scene: Scene) -> None:
    assert scene.system.guard_lost is not None
    scene.system.guard_lost(4711, 4712)
