"""What is done with a started backend before it is ready, by warm-ups that a plugin might bring."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

import trio_sup
from tests.conftest import next_of
from tests.engine.test_lifecycle import KEY, SPEC, supervised, until_phase
from tests.engine.test_restarts import all_of, launches, on_failure, phases
from trio_sup import BackendSpec, Cause, Choice, Phase, events, hookimpl
from trio_sup.protocol import backend_pb2
from trio_sup.strategies import WarmUpTarget
from trio_sup.testing import FakeBackend


async def nothing(target: WarmUpTarget) -> None:
    await trio.lowlevel.checkpoint()


@attrs.define(eq=False)
class Doing:
    """A warm-up that does as it is told; notes what it was given, with the instants, and whether it was cancelled."""

    what: Callable[[WarmUpTarget], Awaitable[object]] = nothing
    seconds: float = 60.0
    runs: list[tuple[float, WarmUpTarget]] = attrs.field(factory=list)
    cancelled: int = 0

    def budget(self, spec: BackendSpec) -> float:
        return self.seconds

    async def warm_up(self, target: WarmUpTarget) -> None:
        self.runs.append((trio.current_time(), target))
        try:
            await self.what(target)
        except trio.Cancelled:
            self.cancelled += 1
            raise


async def sleep(seconds: float, target: WarmUpTarget) -> None:
    await trio.sleep(seconds)


async def fail(target: WarmUpTarget) -> None:
    raise RuntimeError("the model file is damaged")


def warmed(*warm_ups: Any, **fields: Any) -> BackendSpec:
    return attrs.evolve(SPEC, warm_up=warm_ups, **fields)


# ---- before it is ready


async def test_warm_ups_run_one_after_the_other_between_health_and_ready(autojump_clock: MockClock) -> None:
    first, second, third = (Doing(partial(sleep, seconds), seconds=100) for seconds in (40, 50, 0))
    async with supervised(FakeBackend(healthy_after=5)) as (sup, system):
        stream = sup.events()
        backend = await sup.start(warmed(first, second, third))  # long after the readiness deadline
        child = system.children[0]
        began = [warm_up.runs[0][0] - child.launched_at for warm_up in (first, second, third)]
        assert began[0] == pytest.approx(5, abs=0.2)
        assert began[1:] == pytest.approx([began[0] + 40, began[0] + 90])
        assert backend.start_seconds == pytest.approx(began[0] + 90)
        (_, target), *others = first.runs
        assert others == []
        assert (target.key, target.spec, target.pid, target.address) == (
            KEY, backend.spec, child.pid, backend.address,
        )  # fmt: skip
    assert phases(await all_of(stream))[:3] == [Phase.WAITING, Phase.STARTING, Phase.READY]


async def test_meanwhile_it_is_starting_and_not_handed_out(autojump_clock: MockClock) -> None:
    async with supervised() as (sup, _), trio.open_nursery() as nursery:
        nursery.start_soon(sup.start, warmed(Doing(partial(sleep, 20))))
        await trio.sleep(10)
        (backend,) = sup.backends
        assert (backend.phase, backend.address, backend.start_seconds) == (Phase.STARTING, None, None)
        assert sup.get_address(KEY) is None
        with pytest.raises(trio_sup.CallFailed, match="not ready"):
            async with sup.channel(KEY):
                pass
        await until_phase(sup, Phase.READY)
        assert trio.current_time() == pytest.approx(20, abs=0.1)


async def test_it_may_call_the_backend(autojump_clock: MockClock) -> None:
    async def call(target: WarmUpTarget) -> None:
        request = backend_pb2.HealthMessage()
        reply = await target.channel.unary_unary("/backend.Backend/Health", request, backend_pb2.Reply)
        assert reply.message == b"OK"

    async with supervised() as (sup, system):
        await sup.start(warmed(Doing(call)))
        assert len(system.children[0].checked_at) == 2


async def test_it_is_repeated_after_each_restart(autojump_clock: MockClock) -> None:
    warm_up = Doing(partial(sleep, 3))
    crashes = FakeBackend(exits_after=10, exit_code=1)
    async with supervised(crashes, crashes, FakeBackend(), restart_policy=on_failure()) as (sup, system):
        await sup.start(warmed(warm_up))
        await until_phase(sup, Phase.BACKOFF)
        await trio.sleep(50)
        assert [target.pid for _, target in warm_up.runs] == [child.pid for child in system.children]
        assert len(warm_up.runs) == 3
        assert [backend.phase for backend in sup.backends] == [Phase.READY]


async def test_a_ready_backend_is_not_warmed_up_again(autojump_clock: MockClock) -> None:
    warm_up = Doing()
    spec = warmed(warm_up, readiness=trio_sup.Readiness(period=1, failure_threshold=1))
    async with supervised(FakeBackend(unhealthy_during=[(5, 10)])) as (sup, _):
        await sup.start(spec)
        await until_phase(sup, Phase.UNREADY)
        await sup.start(spec)
        assert len(warm_up.runs) == 1


# ---- failing


async def test_one_that_raises_fails_the_start_with_its_text(autojump_clock: MockClock) -> None:
    after = Doing()
    async with supervised(FakeBackend(stderr=b"bad magic\n", stops_after=2)) as (sup, system):
        stream = sup.events()
        with pytest.raises(trio_sup.WarmUpFailed) as caught:
            await sup.start(warmed(Doing(fail), after))
        error = caught.value
        assert (error.key, error.generation, error.why) == (KEY, 1, "the model file is damaged")
        assert str(error).startswith("store#0 could not be warmed up: the model file is damaged.")
        assert "bad magic" in str(error)
        assert error.report is not None
        assert (error.report.cause, error.report.phase, error.report.asked, error.report.success) == (
            Cause.WARM_UP_FAILED, Phase.STARTING, False, False,
        )  # fmt: skip
        assert (error.address, error.stderr_tail) == ("127.0.0.1:21000", "bad magic")
        assert sup.exit_reports(KEY) == (error.report,)
        assert after.runs == []
        assert sup.backends == ()
        assert len(system.children[0].freed_at) == 1  # it was ended in good order
    stopping = next(event for event in await all_of(stream) if isinstance(event, events.BackendStopping))
    assert stopping.cause is Cause.WARM_UP_FAILED


async def test_one_that_takes_longer_than_its_budget_fails_the_start(autojump_clock: MockClock) -> None:
    slow = Doing(partial(sleep, math.inf), seconds=7)
    async with supervised() as (sup, _):
        began = trio.current_time()
        with pytest.raises(trio_sup.WarmUpFailed, match=r"took longer than its budget of 7 s"):
            await sup.start(warmed(slow))
        assert trio.current_time() - began == pytest.approx(7, abs=0.5)
        assert slow.cancelled == 1


async def test_one_that_shields_is_left_behind_and_named(autojump_clock: MockClock) -> None:
    async def shield(target: WarmUpTarget) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(100)

    async with supervised() as (sup, system):
        stream = sup.events()
        began = trio.current_time()
        with pytest.raises(trio_sup.WarmUpFailed, match="budget of 7 s"):
            await sup.start(warmed(Doing(shield, seconds=7)))
        assert trio.current_time() - began == pytest.approx(7, abs=0.5)
        assert (sup.backends, system.running(), system.held) == ((), [], set())
    stuck = [event for event in await all_of(stream) if isinstance(event, events.PluginStuck)]
    assert [event.task for event in stuck] == ["warm-up of store#0"]


async def test_a_failure_is_for_the_restart_policy(autojump_clock: MockClock) -> None:
    failures = 2

    async def fail_twice(target: WarmUpTarget) -> None:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            await fail(target)

    async with supervised(restart_policy=on_failure()) as (sup, system):
        stream = sup.events()
        backend = await sup.start(warmed(Doing(fail_twice)))
        assert (backend.generation, backend.restarts) == (3, 2)
        at = launches(system)
        assert [at[1], at[2] - at[1]] == pytest.approx([1.2, 2.2])
    backoff = [event for event in await all_of(stream) if isinstance(event, events.BackendBackoff)]
    assert [event.why for event in backoff] == ["warm-up failed: the model file is damaged"] * 2


async def test_failures_that_go_on_end_in_giving_up(autojump_clock: MockClock) -> None:
    async with supervised(restart_policy=on_failure(max_start_failures=3)) as (sup, system):
        with pytest.raises(trio_sup.GivenUp, match="3 failed starts in a row") as caught:
            await sup.start(warmed(Doing(fail)))
        assert isinstance(caught.value.last, trio_sup.WarmUpFailed)
        assert caught.value.last.why == "the model file is damaged"
        assert len(system.children) == 3


def raise_in_budget(spec: BackendSpec) -> Any:
    raise RuntimeError("no idea")


@pytest.mark.parametrize("budget", [
    raise_in_budget, lambda spec: math.nan, lambda spec: math.inf, lambda spec: -1, lambda spec: None,
], ids=["raises", "nan", "inf", "negative", "none"])  # fmt: skip
async def test_a_budget_that_is_none_fails_the_start(autojump_clock: MockClock, budget: Any) -> None:
    class Careless(Doing):
        def budget(self, spec: BackendSpec) -> float:
            return budget(spec)  # type: ignore[no-any-return]  # whatever it is

    warm_up = Careless()
    async with supervised() as (sup, _):
        with pytest.raises(trio_sup.WarmUpFailed, match=r"warm-up '.*Careless' failed: its budget\(\)"):
            await sup.start(warmed(warm_up))
        assert warm_up.runs == []


class Denies:
    """A warm-up that returns what it should raise."""

    def budget(self, spec: BackendSpec) -> float:
        return 1.0

    async def warm_up(self, target: WarmUpTarget) -> bool:
        return False


async def test_one_that_returns_false_fails_the_start(autojump_clock: MockClock) -> None:
    async with supervised() as (sup, _):
        with pytest.raises(trio_sup.WarmUpFailed, match="returned False"):
            await sup.start(warmed(Denies()))


async def test_one_that_is_not_asynchronous_fails_the_start(autojump_clock: MockClock) -> None:
    class Synchronous(Doing):
        def warm_up(self, target: WarmUpTarget) -> None:  # type: ignore[override]  # the mistake
            return None

    async with supervised() as (sup, _):
        with pytest.raises(trio_sup.WarmUpFailed, match="await"):
            await sup.start(warmed(Synchronous()))


async def test_a_budget_that_blocks_is_named(autojump_clock: MockClock) -> None:
    class Slow(Doing):
        def budget(self, spec: BackendSpec) -> float:
            time.sleep(0.06)
            return 1

    async with supervised() as (sup, _):
        stream = sup.events()
        await sup.start(warmed(Slow()))
    (slow,) = [event for event in await all_of(stream) if isinstance(event, events.PluginSlow)]
    assert "Slow" in slow.plugin


# ---- overtaken


async def test_an_exit_meanwhile_is_a_death_during_startup(autojump_clock: MockClock) -> None:
    warm_up = Doing(partial(sleep, 50))
    async with supervised(FakeBackend(exits_after=10, exit_code=9)) as (sup, _):
        with pytest.raises(trio_sup.DiedDuringStartup, match="exit code 9"):
            await sup.start(warmed(warm_up))
        assert trio.current_time() == pytest.approx(10, abs=0.1)
        await trio.lowlevel.checkpoint()
        assert warm_up.cancelled == 1
        assert sup.exit_reports(KEY)[0].cause is Cause.EXITED


@pytest.mark.parametrize("gap", [0.0, 0.1])
async def test_one_that_fails_because_the_process_died_does_not_hide_that(
    autojump_clock: MockClock, gap: float
) -> None:
    async def lose_the_connection(target: WarmUpTarget) -> None:
        await trio.sleep_until(system.children[0].launched_at + 10 - gap)  # it is closed before the process is gone
        raise trio_sup.CallFailed("/backend.Backend/LoadModel", "UNAVAILABLE", "connection lost")

    async with supervised(FakeBackend(exits_after=10, exit_code=9)) as (sup, system):
        with pytest.raises(trio_sup.DiedDuringStartup, match="exit code 9"):
            await sup.start(warmed(Doing(lose_the_connection)))
        assert sup.exit_reports(KEY)[0].cause is Cause.EXITED


async def test_one_that_returns_as_the_process_ends_does_not_make_it_ready(autojump_clock: MockClock) -> None:
    async def end_it(target: WarmUpTarget) -> None:
        system.children[0].exit()

    async with supervised() as (sup, system):
        stream = sup.events()
        with pytest.raises(trio_sup.DiedDuringStartup):
            await sup.start(warmed(Doing(end_it)))
    assert Phase.READY not in phases(await all_of(stream))


async def test_a_stop_meanwhile_wins(autojump_clock: MockClock) -> None:
    warm_up = Doing(partial(sleep, 50))
    async with supervised(restart_policy=on_failure()) as (sup, system), trio.open_nursery() as nursery:

        async def start() -> None:
            with pytest.raises(trio_sup.StoppedDuringStartup, match="asked to stop"):
                await sup.start(warmed(warm_up))

        nursery.start_soon(start)
        await trio.sleep(10)
        (report,) = await sup.stop(KEY)
        assert report.gone
        assert report.report is not None
        assert (report.report.cause, report.report.phase) == (Cause.ASKED, Phase.STARTING)
        assert (warm_up.cancelled, len(system.children)) == (1, 1)


async def test_the_last_cancelled_caller_ends_it(autojump_clock: MockClock) -> None:
    warm_up = Doing(partial(sleep, 50))
    async with supervised(restart_policy=on_failure()) as (sup, _):
        with trio.move_on_after(10):
            await sup.start(warmed(warm_up))
        await trio.sleep(1)
        assert (sup.backends, warm_up.cancelled) == ((), 1)
        assert sup.exit_reports(KEY)[0].cause is Cause.ABANDONED


async def test_leaving_the_block_meanwhile_ends_it(autojump_clock: MockClock) -> None:
    warm_up = Doing(partial(sleep, math.inf), seconds=1e6)

    async def start(sup: trio_sup.Supervisor) -> None:
        with pytest.raises(trio_sup.StoppedDuringStartup, match="shutdown"):
            await sup.start(warmed(warm_up))

    async with trio.open_nursery() as nursery, supervised() as (sup, _):
        nursery.start_soon(start, sup)
        await until_phase(sup, Phase.STARTING)
        await trio.sleep(10)
    assert warm_up.cancelled == 1
    assert trio.current_time() == pytest.approx(10, abs=1)


async def test_one_backend_that_warms_up_does_not_hold_up_another(autojump_clock: MockClock) -> None:
    async with supervised() as (sup, _), trio.open_nursery() as nursery:
        nursery.start_soon(sup.start, warmed(Doing(partial(sleep, 50))))
        await until_phase(sup, Phase.STARTING)
        await sup.start(SPEC, model="other")
        assert trio.current_time() < 1


# ---- by name


@attrs.frozen(kw_only=True)
class Prompt:
    """A warm-up with options."""

    text: str

    def budget(self, spec: BackendSpec) -> float:
        return 10

    async def warm_up(self, target: WarmUpTarget) -> None:
        raise RuntimeError(f"asked {self.text!r}")


class Offering:
    @hookimpl
    def trio_sup_warm_ups(self) -> Mapping[str, Any]:
        return {"prompt": Prompt}


async def test_a_plugin_offers_warm_ups_by_name(autojump_clock: MockClock) -> None:
    async with supervised(plugins=[Offering()]) as (sup, _):
        stream = sup.events()
        with pytest.raises(trio_sup.WarmUpFailed, match="asked 'hello'"):
            await sup.start(warmed(Choice("prompt", text="hello")))
        with pytest.raises(trio_sup.InvalidOptions, match="text"):
            await sup.start(warmed("prompt"))
        with pytest.raises(trio_sup.UnknownStrategy, match="did you mean 'prompt'"):
            await sup.start(warmed("promt"))
        with pytest.raises(trio_sup.InvalidValue, match="no budget"):
            await sup.start(warmed(object()))
        assert sup.backends == ()
        launched = [await next_of(stream, events.BackendStarting)]
    assert len(launched) == 1
    assert not any([isinstance(event, events.BackendStarting) async for event in stream])
