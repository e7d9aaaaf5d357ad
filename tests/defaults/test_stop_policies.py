"""The built-in stop policies against a target that keeps to a timetable."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from trio_sup import BackendSpec, CallFailed, InvalidValue, ProcessKey
from trio_sup.defaults._stop_policies import Drain, FreeThenTerminate, Kill, Terminate
from trio_sup.strategies import StopPolicy


@attrs.define
class Target:
    """Ends some time after its signal; writes down what was asked of it, and when."""

    grace: float = 15.0
    free_takes: float = 0.0
    free_error: Exception | None = None
    exits_after: float = 0.0
    leased_for: float = 0.0
    asked: list[tuple[str, float]] = attrs.field(factory=list)
    key: ProcessKey = attrs.field(factory=lambda: ProcessKey("m"))
    pid: int = 1

    @property
    def spec(self) -> BackendSpec:
        return BackendSpec(name="m", command=["m"], grace=self.grace)

    async def free(self) -> None:
        self.asked.append(("free", trio.current_time()))
        await trio.sleep(self.free_takes)
        if self.free_error:
            raise self.free_error

    def signal(self, number: signal.Signals | None = None) -> None:
        assert number is None
        self.asked.append(("signal", trio.current_time()))

    async def exited(self) -> None:
        await trio.sleep(self.exits_after)

    async def unleased(self) -> None:
        self.asked.append(("unleased", trio.current_time()))
        await trio.sleep(self.leased_for)


async def seconds_of(policy: StopPolicy, target: Target) -> float:
    began = trio.current_time()
    with trio.fail_after(10_000):
        await policy.stop(target)
    return trio.current_time() - began


async def test_free_comes_before_the_signal(autojump_clock: trio.testing.MockClock) -> None:
    target = Target(free_takes=2, exits_after=3)
    assert await seconds_of(FreeThenTerminate(), target) == pytest.approx(5)
    assert target.asked == [("free", 0), ("signal", pytest.approx(2))]


async def test_free_that_hangs_is_left_after_its_time(autojump_clock: trio.testing.MockClock) -> None:
    target = Target(free_takes=math.inf)
    await seconds_of(FreeThenTerminate(free_timeout="4s"), target)
    assert target.asked == [("free", 0), ("signal", pytest.approx(4))]


@pytest.mark.parametrize("error", [CallFailed("/f", "UNIMPLEMENTED", "no"), AttributeError("a bug in a library")])
async def test_free_that_fails_harms_nothing(autojump_clock: trio.testing.MockClock, error: Exception) -> None:
    target = Target(free_error=error)
    await seconds_of(FreeThenTerminate(), target)
    assert [what for what, _ in target.asked] == ["free", "signal"]


@pytest.mark.parametrize("policy", [FreeThenTerminate(), Drain(), Terminate()])
async def test_waits_no_longer_than_the_grace(autojump_clock: trio.testing.MockClock, policy: StopPolicy) -> None:
    assert await seconds_of(policy, Target(grace=7, exits_after=math.inf)) == pytest.approx(7)


async def test_drain_waits_for_the_leases_before_anything_else(autojump_clock: trio.testing.MockClock) -> None:
    target = Target(leased_for=10, free_takes=2, exits_after=3)
    assert await seconds_of(Drain(), target) == pytest.approx(15)
    assert target.asked == [("unleased", 0), ("free", pytest.approx(10)), ("signal", pytest.approx(12))]


async def test_drain_does_not_wait_if_nobody_uses_it(autojump_clock: trio.testing.MockClock) -> None:
    target = Target()
    assert await seconds_of(Drain(), target) == 0
    assert [what for what, _ in target.asked] == ["unleased", "free", "signal"]


async def test_leases_that_do_not_end_are_waited_for_only_so_long(autojump_clock: trio.testing.MockClock) -> None:
    target = Target(leased_for=math.inf, free_takes=math.inf)
    await seconds_of(Drain(drain_timeout="20s", free_timeout="2s"), target)
    assert target.asked == [("unleased", 0), ("free", pytest.approx(20)), ("signal", pytest.approx(22))]


async def test_drain_goes_on_when_free_fails(autojump_clock: trio.testing.MockClock) -> None:
    target = Target(leased_for=1, free_error=CallFailed("/f", "UNIMPLEMENTED", "no"))
    await seconds_of(Drain(), target)
    assert [what for what, _ in target.asked] == ["unleased", "free", "signal"]


@pytest.mark.parametrize("policy", [FreeThenTerminate(), Terminate(), Kill()])
async def test_the_others_do_not_wait_for_leases(autojump_clock: trio.testing.MockClock, policy: StopPolicy) -> None:
    assert await seconds_of(policy, Target(leased_for=math.inf)) == 0


async def test_terminate_does_not_call_free(autojump_clock: trio.testing.MockClock) -> None:
    target = Target(exits_after=2)
    assert await seconds_of(Terminate(), target) == pytest.approx(2)
    assert target.asked == [("signal", 0)]


async def test_kill_asks_nothing(autojump_clock: trio.testing.MockClock) -> None:
    target = Target(exits_after=math.inf)
    assert await seconds_of(Kill(), target) == 0
    assert target.asked == []


@given(grace=st.floats(0, 1000), free_timeout=st.floats(0, 1000), drain_timeout=st.floats(0, 1000))
def test_never_takes_longer_than_its_budget(grace: float, free_timeout: float, drain_timeout: float) -> None:
    async def worst() -> None:
        free_then_terminate = FreeThenTerminate(free_timeout=free_timeout)
        drain = Drain(drain_timeout=drain_timeout, free_timeout=free_timeout)
        for policy in (free_then_terminate, drain, Terminate(), Kill()):
            target = Target(grace=grace, free_takes=math.inf, exits_after=math.inf, leased_for=math.inf)
            assert await seconds_of(policy, target) < policy.budget(target.spec)

    trio.run(worst, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("policy", [FreeThenTerminate(), Terminate()])
async def test_cancelled_while_waiting_it_ends_at_once(
    autojump_clock: trio.testing.MockClock, policy: StopPolicy
) -> None:
    for target in (Target(free_takes=4), Target(exits_after=14)):
        with trio.move_on_after(1) as scope:
            await policy.stop(target)
        assert scope.cancelled_caught == (target.exits_after > 0 or isinstance(policy, FreeThenTerminate))


async def test_cancelled_while_it_is_leased_drain_ends_at_once(autojump_clock: trio.testing.MockClock) -> None:
    target = Target(leased_for=math.inf)
    with trio.move_on_after(1) as scope:
        await Drain().stop(target)
    assert scope.cancelled_caught
    assert trio.current_time() == pytest.approx(1)
    assert target.asked == [("unleased", 0)]


@pytest.mark.parametrize(
    ("make", "option"), [(FreeThenTerminate, "free_timeout"), (Drain, "drain_timeout"), (Drain, "free_timeout")]
)
def test_refuses_a_negative_timeout_by_name(make: Callable[..., StopPolicy], option: str) -> None:
    with pytest.raises(InvalidValue, match=f"^{option}: a duration must not be negative"):
        make(**{option: -1})
