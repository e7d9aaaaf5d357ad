"""What follows an end that nobody asked for, on fake processes and a virtual clock: every instant is exact."""

from __future__ import annotations

import errno
import itertools
import math
import random
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

import trio_sup
from tests.conftest import next_of
from tests.engine.test_lifecycle import KEY, SPEC, supervised, until_phase
from trio_sup import Cause, Choice, ExitStatus, Liveness, Phase, Readiness, Then, events
from trio_sup.engine import EventStream
from trio_sup.strategies import AttemptEnd, GiveUp, RestartAfter
from trio_sup.testing import FakeBackend, FakeSystem

DIES = FakeBackend(listens_after=math.inf, exits_after=0.5, exit_code=3, stderr=b"no model file\n")
"""It never becomes ready, and ends by itself half a second after its launch."""


def on_failure(**options: Any) -> Choice:
    """The built-in policy without chance: 1 s, 2 s, 4 s and then 8 s; it gives up after five failed starts in a row."""
    return Choice("on-failure", **{"delay": 1, "max_delay": 8, "jitter": 0, "limit": 0, **options})


PATIENT = on_failure(delay=100, max_delay=1000)


def launches(system: FakeSystem) -> list[float]:
    """When each process was launched, counted from the first."""
    return [child.launched_at - system.children[0].launched_at for child in system.children]


def phases(seen: Sequence[events.Event]) -> list[Phase]:
    return [event.phase for event in seen if isinstance(event, events.BackendMoved)]


async def all_of(stream: EventStream) -> list[events.Event]:
    """Every event until the supervisor ended."""
    return [event async for event in stream]


@attrs.define
class Policy:
    """A policy that a plugin might bring; notes when it was asked, and what it was told."""

    answer: Callable[[Sequence[AttemptEnd]], Any]
    asked_at: list[float] = attrs.field(factory=list)
    told: list[Sequence[AttemptEnd]] = attrs.field(factory=list)

    def decide(self, ends: Sequence[AttemptEnd], rng: random.Random) -> Any:
        self.asked_at.append(trio.current_time())
        self.told.append(ends)
        return self.answer(ends)


# ---- when it is started again


async def test_each_failed_start_is_followed_by_the_next_after_its_backoff(autojump_clock: MockClock) -> None:
    policy = on_failure(max_start_failures=6)
    async with supervised(DIES, restart_policy=policy) as (sup, system):
        with pytest.raises(trio_sup.GivenUp):
            await sup.start(SPEC)
        # Half a second of life each, then 1, 2, 4, 8 and again 8 seconds of waiting.
        assert launches(system) == pytest.approx([0, 1.5, 4, 8.5, 17, 25.5])


async def test_chance_varies_the_waits_within_the_jitter(autojump_clock: MockClock) -> None:
    policy = on_failure(jitter=0.5, max_delay=1, max_start_failures=30)
    async with supervised(DIES, restart_policy=policy) as (sup, system):
        with pytest.raises(trio_sup.GivenUp):
            await sup.start(SPEC)
        at = launches(system)
        waits = [later - earlier - 0.5 for earlier, later in itertools.pairwise(at)]
    assert all(0.5 - 1e-6 <= wait <= 1.5 + 1e-6 for wait in waits)
    assert len({round(wait, 3) for wait in waits}) > 20


async def test_a_crash_of_a_ready_backend_is_followed_by_a_restart_on_the_same_port(autojump_clock: MockClock) -> None:
    async with supervised(FakeBackend(exits_after=100, exit_code=1), restart_policy=on_failure()) as (sup, system):
        first = await sup.start(SPEC)
        stream = sup.events()
        event = await next_of(stream, events.BackendBackoff)
        assert (event.delay, event.failures, event.why) == (1, 1, "exit code 1")
        assert event.report is not None
        assert (event.report.generation, event.report.asked, event.report.success) == (1, False, False)
        second = await next_of(stream, events.BackendReady)
        assert (second.generation, second.address) == (2, first.address)
        assert launches(system) == pytest.approx([0, 101])


async def test_a_healthy_stretch_makes_the_waits_short_again(autojump_clock: MockClock) -> None:
    healthy = FakeBackend(exits_after=20, exit_code=1)
    behaviours = [DIES, DIES, DIES, healthy, healthy, DIES, DIES]
    policy = on_failure(healthy_after=10, max_start_failures=5)
    async with supervised(*behaviours, restart_policy=policy) as (sup, system):
        await sup.start(SPEC)
        with trio.move_on_after(100):
            await trio.sleep_forever()
        # 1, 2, 4 after the failed starts; the healthy ones begin anew; the last two failures go on from there.
        assert launches(system)[:8] == pytest.approx([0, 1.5, 4, 8.5, 29.5, 50.5, 53, 57.5])


async def test_a_start_that_is_waited_for_is_ready_after_restarts(autojump_clock: MockClock) -> None:
    async with supervised(DIES, DIES, FakeBackend(), restart_policy=on_failure()) as (sup, system):
        began = trio.current_time()
        backend = await sup.start(SPEC)
        assert trio.current_time() - began == pytest.approx(4)
        assert (backend.generation, backend.restarts, backend.pid) == (3, 2, system.children[2].pid)
        assert [report.cause for report in sup.exit_reports(KEY)] == [Cause.EXITED, Cause.EXITED]


@pytest.mark.parametrize(
    ("ill", "cause", "why"),
    [
        (FakeBackend(healthy_after=100), Cause.DEADLINE, "readiness deadline: /backend.Backend/Health: UNAVAILABLE"),
        (FakeBackend(unhealthy_during=[(3, 99)]), Cause.LIVENESS, "liveness lost: /backend.Backend/Health"),
    ],
    ids=["not ready in time", "liveness lost"],
)
async def test_whatever_ended_it_unasked_is_for_the_policy(
    autojump_clock: MockClock, ill: FakeBackend, cause: Cause, why: str
) -> None:
    spec = attrs.evolve(SPEC, liveness=Liveness(period=1, busy_timeout=0))
    async with supervised(ill, FakeBackend(), restart_policy=on_failure()) as (sup, _), trio.open_nursery() as nursery:
        stream = sup.events()
        nursery.start_soon(sup.start, spec)
        event = await next_of(stream, events.BackendStopping)
        assert (event.cause, event.then) == (cause, Then.DECIDE)
        backoff = await next_of(stream, events.BackendBackoff)
        assert backoff.why.startswith(why)
        await next_of(stream, events.BackendReady)


async def test_a_launch_that_is_refused_is_tried_again(autojump_clock: MockClock) -> None:
    refused = FakeBackend(launch_error=OSError(errno.EAGAIN, "Resource temporarily unavailable"))
    async with supervised(refused, refused, FakeBackend(), restart_policy=on_failure()) as (sup, _):
        stream = sup.events()
        began = trio.current_time()
        await sup.start(SPEC)
        assert trio.current_time() - began == pytest.approx(3)
    backoff = [event for event in await all_of(stream) if isinstance(event, events.BackendBackoff)]
    assert [(event.report, event.why) for event in backoff] == [
        (None, "could not be launched: Resource temporarily unavailable")
    ] * 2


async def test_a_lack_of_ports_is_waited_out(autojump_clock: MockClock) -> None:
    async with supervised(restart_policy=on_failure(), ports=Choice("lifo", range="21000-21000")) as (sup, system):
        system.taken = {21000}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sup.start, SPEC)
            await until_phase(sup, Phase.BACKOFF)
            system.taken.clear()
            await until_phase(sup, Phase.READY)
        assert len(system.children) == 1


async def test_an_internal_error_is_followed_by_a_restart(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with supervised(restart_policy=on_failure()) as (sup, system):
        real = system.wait_for_listener

        async def broken_once(port: int) -> None:
            monkeypatch.setattr(system, "wait_for_listener", real)
            raise RuntimeError("a bug")

        monkeypatch.setattr(system, "wait_for_listener", broken_once)
        assert (await sup.start(SPEC)).generation == 2
        (report,) = sup.exit_reports(KEY)
        assert "a bug" in (report.traceback or "")


async def test_what_fails_before_it_waited_for_anything_is_tried_again_all_the_same(autojump_clock: MockClock) -> None:
    class Full:
        """Fails twice, and has nothing to wait for."""

        refusals = 2

        async def admit(self, slot: Any, waits_for: Callable[[str], None]) -> None:
            if self.refusals:
                self.refusals -= 1
                raise trio_sup.NoPortAvailable(slot.key, why="none is left")

    policy = on_failure(max_start_failures=1)
    async with supervised(DIES, FakeBackend(), restart_policy=policy) as (sup, system):
        stream = sup.events()
        with pytest.raises(trio_sup.GivenUp):
            await sup.start(SPEC)
        sup._lifecycle.admission = Full()  # type: ignore[assignment]  # as little of it as is called
        with pytest.raises(trio_sup.GivenUp, match="none is left"):
            await sup.start(SPEC)
        with pytest.raises(trio_sup.GivenUp, match="none is left"):
            await sup.start(SPEC)
        assert (await sup.start(SPEC)).phase is Phase.READY
        assert len(system.children) == 2
    moves = [event for event in await all_of(stream) if isinstance(event, events.BackendMoved)]
    assert [event.previous for event in moves] == [Phase.GONE, *(event.phase for event in moves[:-1])]


@pytest.mark.parametrize("spec", [
    attrs.evolve(SPEC, command=["/does/not/exist"]), attrs.evolve(SPEC, env_file="/does/not/exist"),
])  # fmt: skip
async def test_what_no_second_try_would_mend_is_told_at_once(
    autojump_clock: MockClock, spec: trio_sup.BackendSpec
) -> None:
    async with supervised(restart_policy=on_failure()) as (sup, _):
        with pytest.raises((trio_sup.InvalidCommand, trio_sup.InvalidValue)):
            await sup.start(spec)
        assert trio.current_time() == pytest.approx(0)
        assert sup.backends == ()


async def test_a_port_taken_under_the_placeholder_costs_no_restart(autojump_clock: MockClock) -> None:
    taken = attrs.evolve(DIES, stderr=b"bind: Address already in use\n")
    policy = Policy(lambda ends: None)
    spec = attrs.evolve(SPEC, restart_policy=policy)
    async with supervised(taken, taken, FakeBackend()) as (sup, system):
        backend = await sup.start(spec)
        assert (backend.generation, backend.restarts, policy.told) == (3, 0, [])
        assert launches(system) == pytest.approx([0, 0.5, 1])


# ---- whether it is started again


@pytest.mark.parametrize(
    ("policy", "status", "restarted"),
    [
        ("never", ExitStatus(code=1), False),
        ("never", ExitStatus(signal=9), False),
        ("on-failure", ExitStatus(code=0), False),
        ("on-failure", ExitStatus(code=7), False),
        ("on-failure", ExitStatus(code=1), True),
        ("on-failure", ExitStatus(signal=signal.SIGHUP), False),
        ("on-failure", ExitStatus(signal=signal.SIGSEGV), True),
        ("on-failure", ExitStatus(), True),  # somebody else collected it: nobody can call that a success
        ("always", ExitStatus(code=0), True),
        ("always", ExitStatus(code=1), True),
    ],
)
async def test_codes_and_signals_that_count_as_success(
    autojump_clock: MockClock, policy: str, status: ExitStatus, restarted: bool
) -> None:
    spec = attrs.evolve(SPEC, success_codes=[0, 7], success_signals=["SIGHUP"], restart_policy=policy)
    async with supervised() as (sup, system):
        stream = sup.events()
        await sup.start(spec)
        await trio.sleep(1)
        system.children[0].exit(status)
        await trio.sleep(5)
        assert len(system.children) == 1 + restarted
        assert [backend.phase for backend in sup.backends] == [Phase.READY] * restarted
        (report,) = sup.exit_reports(KEY)
        assert (report.status, report.asked) == (status, False)
    stopping = next(event for event in await all_of(stream) if isinstance(event, events.BackendStopping))
    assert (stopping.cause, stopping.then) == (Cause.EXITED, Then.DECIDE)


async def test_an_end_with_success_before_it_was_ready_is_a_failed_start_and_not_restarted(
    autojump_clock: MockClock,
) -> None:
    async with supervised(attrs.evolve(DIES, exit_code=0), restart_policy=on_failure()) as (sup, system):
        with pytest.raises(trio_sup.DiedDuringStartup, match="exit code 0"):
            await sup.start(SPEC)
        await trio.sleep(100)
        assert (sup.backends, len(system.children)) == ((), 1)


@pytest.mark.parametrize("own", [None, "never"])
async def test_the_specification_decides_over_the_supervisor(autojump_clock: MockClock, own: str | None) -> None:
    async with supervised(FakeBackend(exits_after=1), restart_policy="always") as (sup, system):
        await sup.start(attrs.evolve(SPEC, restart_policy=own))
        await trio.sleep(2)
        assert len(system.children) == (1 if own else 2)


async def test_what_was_asked_for_is_not_for_the_policy(autojump_clock: MockClock) -> None:
    policy = Policy(lambda ends: RestartAfter(0))
    spec = attrs.evolve(SPEC, restart_policy=policy)
    async with supervised() as (sup, system):
        await sup.start(spec)
        await sup.stop("store")
        await sup.start(spec)
        await sup.start(attrs.evolve(spec, grace=1), replace=True)
        await trio.sleep(100)
        assert len(system.children) == 3
        assert policy.told == []


# ---- giving up


async def test_given_up_after_so_many_failed_starts_tells_the_last_failure(autojump_clock: MockClock) -> None:
    async with supervised(DIES, restart_policy=on_failure(max_start_failures=3)) as (sup, system):
        with pytest.raises(trio_sup.GivenUp) as caught:
            await sup.start(SPEC)
        error = caught.value
        assert (error.key, error.generation, error.why) == (KEY, 3, "3 failed starts in a row")
        assert isinstance(error.last, trio_sup.DiedDuringStartup)
        assert (error.last.stderr_tail, error.stderr_tail) == ("no model file", "no model file")
        assert error.report is not None
        assert error.report.status == ExitStatus(code=3)
        assert "exit code 3" in str(error)
        (backend,) = sup.backends
        assert (backend.phase, backend.port, backend.pid, backend.address, backend.why, backend.restarts) == (
            Phase.GIVEN_UP, None, None, None, "3 failed starts in a row", 2,
        )  # fmt: skip
        assert not system.held
        assert not sup.is_running("store")
        await trio.sleep(1000)
        assert len(system.children) == 3


async def test_given_up_after_too_many_restarts_within_the_period(autojump_clock: MockClock) -> None:
    crashes = FakeBackend(exits_after=20, exit_code=1)
    async with supervised(crashes, restart_policy=on_failure(limit=3, period=100)) as (sup, system):
        await sup.start(SPEC)
        await until_phase(sup, Phase.GIVEN_UP)
        assert launches(system) == pytest.approx([0, 21, 42, 63])
        (backend,) = sup.backends
        assert backend.why == "more than 3 restarts within 1 min 40 s"
    slower = FakeBackend(exits_after=40, exit_code=1)
    async with supervised(slower, restart_policy=on_failure(limit=3, period=100)) as (sup, system):
        await sup.start(SPEC)
        await trio.sleep(1000)
        assert len(system.children) > 20


async def test_an_explicit_start_tries_anew_with_fresh_counters(autojump_clock: MockClock) -> None:
    async with supervised(DIES, restart_policy=on_failure(max_start_failures=3)) as (sup, system):
        for round_ in range(1, 4):
            with pytest.raises(trio_sup.GivenUp):
                await sup.start(SPEC)
            assert len(system.children) == 3 * round_
            at = launches(system)[-3:]
            assert [instant - at[0] for instant in at] == pytest.approx([0, 1.5, 4])
            assert sup.backends[0].restarts == 2


async def test_a_given_up_backend_recovers(autojump_clock: MockClock) -> None:
    async with supervised(DIES, DIES, FakeBackend(), restart_policy=on_failure(max_start_failures=2)) as (sup, _):
        with pytest.raises(trio_sup.GivenUp):
            await sup.start(SPEC)
        backend = await sup.start(SPEC)
        assert (backend.phase, backend.restarts, backend.why) == (Phase.READY, 0, None)


async def test_a_given_up_slot_takes_another_specification(autojump_clock: MockClock) -> None:
    async with supervised(DIES, FakeBackend(), restart_policy=on_failure(max_start_failures=1)) as (sup, _):
        with pytest.raises(trio_sup.GivenUp):
            await sup.start(SPEC)
        assert (await sup.start(attrs.evolve(SPEC, grace=1))).spec.grace == 1


async def test_all_who_wait_are_told_that_it_was_given_up(autojump_clock: MockClock) -> None:
    caught: list[trio_sup.GivenUp] = []

    async def start() -> None:
        with pytest.raises(trio_sup.GivenUp) as info:
            await sup.start(SPEC)
        caught.append(info.value)

    async with supervised(DIES, restart_policy=on_failure(max_start_failures=3)) as (sup, _):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(start)
        assert len({id(error) for error in caught}) == 5  # raising one changes it


async def test_one_that_was_ready_and_is_given_up_has_no_failed_start_to_tell(autojump_clock: MockClock) -> None:
    policy = Policy(lambda ends: GiveUp("enough"))
    readiness = Readiness(period=1, failure_threshold=1)
    liveness = Liveness(period=1, failure_threshold=5, busy_timeout=0)
    spec = attrs.evolve(SPEC, restart_policy=policy, readiness=readiness, liveness=liveness)
    async with supervised(FakeBackend(unhealthy_during=[(10, 99)])) as (sup, _):
        await sup.start(spec)
        await until_phase(sup, Phase.UNREADY)
        with pytest.raises(trio_sup.GivenUp) as caught:
            await sup.start(spec)  # waits until it is back in rotation, which never comes
        assert (caught.value.why, caught.value.last) == ("enough", None)
        assert caught.value.report is not None
        assert caught.value.report.cause is Cause.LIVENESS


# ---- policies that misbehave


def raises(ends: Sequence[AttemptEnd]) -> Any:
    raise RuntimeError("policy broken")


@pytest.mark.parametrize("answer", [
    raises, lambda ends: 5, lambda ends: RestartAfter(math.nan), lambda ends: RestartAfter(math.inf),
    lambda ends: RestartAfter(-1), lambda ends: RestartAfter("soon"),  # type: ignore[arg-type]  # as a careless one may
    lambda ends: GiveUp(5), lambda ends: RestartAfter, lambda ends: False,  # type: ignore[arg-type]  # likewise
], ids=["raises", "number", "nan", "inf", "negative", "text", "no reason", "class", "false"])  # fmt: skip
async def test_a_policy_that_fails_is_named_and_replaced(
    autojump_clock: MockClock, answer: Callable[[Sequence[AttemptEnd]], Any]
) -> None:
    policy = Policy(answer)
    spec = attrs.evolve(SPEC, restart_policy=policy)
    async with supervised(FakeBackend(exits_after=1, exit_code=1), FakeBackend(exits_after=1)) as (sup, system):
        stream = sup.events()
        await sup.start(spec)
        await trio.sleep(10)
        # As the built-in 'on-failure' has it: half a second after the crash, and not after a success.
        assert launches(system) == pytest.approx([0, 1.5], abs=0.06)
        assert sup.backends == ()
    named = [event for event in await all_of(stream) if isinstance(event, events.PluginFailed)]
    assert len(named) == 2
    assert all("restart policy" in event.plugin and "Policy" in event.plugin for event in named)
    assert {event.key for event in named} == {KEY}
    assert "'on-failure' takes over" in str(named[0])


async def test_a_policy_that_blocks_is_named_with_its_duration(autojump_clock: MockClock) -> None:
    def blocks(ends: Sequence[AttemptEnd]) -> RestartAfter:
        time.sleep(0.06)
        return RestartAfter(2)

    spec = attrs.evolve(SPEC, restart_policy=Policy(blocks))
    async with supervised(FakeBackend(exits_after=1, exit_code=1), FakeBackend()) as (sup, system):
        stream = sup.events()
        await sup.start(spec)
        await trio.sleep(10)
        assert launches(system) == pytest.approx([0, 3])
    (slow,) = [event for event in await all_of(stream) if isinstance(event, events.PluginSlow)]
    assert "Policy" in slow.plugin
    assert slow.what == "decide()"
    assert slow.seconds >= 0.06


@pytest.mark.parametrize("behaviour", [
    FakeBackend(exits_after=0.0, exit_code=1), attrs.evolve(DIES, exits_after=0.0),
    FakeBackend(launch_error=OSError(errno.ENOENT, "No such file or directory")),
], ids=["at once", "before it listens", "not even launched"])  # fmt: skip
async def test_what_dies_at_once_does_not_make_it_spin(autojump_clock: MockClock, behaviour: FakeBackend) -> None:
    policy = Policy(lambda ends: RestartAfter(0))
    spec = attrs.evolve(SPEC, restart_policy=policy)
    async with supervised(behaviour) as (sup, _):
        with trio.move_on_after(10):
            await sup.start(spec)
    assert 90 <= len(policy.asked_at) <= 101
    gaps = [later - earlier for earlier, later in itertools.pairwise(policy.asked_at)]
    assert min(gaps) >= 0.1 - 1e-6


async def test_a_policy_is_told_of_at_most_a_thousand_ends(autojump_clock: MockClock) -> None:
    policy = Policy(lambda ends: RestartAfter(0) if len(policy.told) < 1100 else GiveUp("enough"))
    async with supervised(attrs.evolve(DIES, exits_after=0.2)) as (sup, _):
        with pytest.raises(trio_sup.GivenUp, match="enough"):
            await sup.start(attrs.evolve(SPEC, restart_policy=policy))
        assert len(policy.told[-1]) == 1000
        assert [len(ends) for ends in policy.told[:3]] == [1, 2, 3]


async def test_what_a_policy_is_told_of_an_end(autojump_clock: MockClock) -> None:
    policy = Policy(lambda ends: RestartAfter(1))
    spec = attrs.evolve(SPEC, restart_policy=policy)
    refused = FakeBackend(launch_error=OSError(errno.EAGAIN, "try again"))
    behaviours = [FakeBackend(listens_after=2, exits_after=10), DIES, refused, FakeBackend(exits_after=3, exit_code=4)]
    async with supervised(*behaviours) as (sup, _):
        await sup.start(spec)
        began = trio.current_time() - 2
        await trio.sleep(17)
        ends = policy.told[-1]
    assert [end.ended_at - began for end in ends] == pytest.approx([10, 11.5, 12.5, 16.5])
    assert [end.ready_for for end in ends] == [pytest.approx(8), None, None, pytest.approx(3)]
    assert [end.success for end in ends] == [True, False, False, False]
    assert [end.report.status if end.report else None for end in ends] == [
        ExitStatus(code=0), ExitStatus(code=3), None, ExitStatus(code=4),
    ]  # fmt: skip


# ---- what is told meanwhile


async def test_the_events_of_a_crash_loop_are_one_per_move_and_in_order(autojump_clock: MockClock) -> None:
    crashes = FakeBackend(exits_after=5, exit_code=1)
    async with supervised(crashes, DIES, restart_policy=on_failure(max_start_failures=1)) as (sup, _):
        stream = sup.events()
        await sup.start(SPEC)
        await until_phase(sup, Phase.GIVEN_UP)
        await sup.stop("store")
    seen = await all_of(stream)
    assert phases(seen) == [
        Phase.WAITING, Phase.STARTING, Phase.READY, Phase.STOPPING, Phase.BACKOFF,
        Phase.WAITING, Phase.STARTING, Phase.STOPPING, Phase.GIVEN_UP, Phase.GONE,
    ]  # fmt: skip
    moves = [event for event in seen if isinstance(event, events.BackendMoved)]
    assert [event.previous for event in moves] == [Phase.GONE, *(event.phase for event in moves[:-1])]
    assert [event.generation for event in moves] == [1] * 5 + [2] * 5
    assert [event.sequence for event in seen] == list(range(1, len(seen) + 1))
    given_up = next(event for event in moves if isinstance(event, events.BackendGivenUp))
    assert given_up.report is not None
    assert (given_up.why, given_up.report.generation) == ("1 failed start in a row", 2)
    assert str(given_up) == "store#0 is given up: 1 failed start in a row"


async def test_what_somebody_should_look_at_is_a_warning_in_the_log(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    ill = FakeBackend(unhealthy_during=[(5, 15)], exits_after=30, exit_code=1)
    readiness = Readiness(period=1, failure_threshold=1)
    async with supervised(ill, DIES, restart_policy=on_failure(max_start_failures=1)) as (sup, _):
        await sup.start(attrs.evolve(SPEC, readiness=readiness))
        await until_phase(sup, Phase.GIVEN_UP)
    assert [record.getMessage() for record in caplog.records if record.name == "trio_sup.engine"] == [
        "store#0 is out of rotation: /backend.Backend/Health: UNAVAILABLE: unwell",
        "store#0 is started again in 1.0 s: exit code 1",
        "store#0 is given up: 1 failed start in a row",
    ]


async def test_a_snapshot_in_backoff_says_when_and_why(autojump_clock: MockClock) -> None:
    crashes = FakeBackend(exits_after=5, exit_code=9)
    async with supervised(crashes, restart_policy=on_failure(delay=40, max_delay=80, factor=2)) as (sup, system):
        await sup.start(SPEC)
        await until_phase(sup, Phase.BACKOFF)
        await trio.sleep(30)
        (backend,) = sup.backends
        assert backend.next_start_at == pytest.approx(time.time() + 10, abs=1)
        assert (backend.phase, backend.why, backend.restarts) == (Phase.BACKOFF, "exit code 9", 1)
        assert (backend.pid, backend.address, backend.port) == (None, None, 21000)
        assert sup.get_address(KEY) is None
        assert not sup.is_running("store")
        with pytest.raises(trio_sup.CallFailed, match="not ready"):
            async with sup.channel(KEY):
                pass
        assert system.held == {21000}  # nobody else gets it meanwhile
        await until_phase(sup, Phase.READY)
        (backend,) = sup.backends
        assert (backend.next_start_at, backend.why, backend.restarts) == (None, None, 1)


async def test_nobody_gets_the_port_of_one_that_waits_for_its_restart(autojump_clock: MockClock) -> None:
    ports = Choice("lifo", range="21000-21001")
    crashes = FakeBackend(exits_after=5, exit_code=1)
    async with supervised(crashes, FakeBackend(), ports=ports) as (sup, _):
        await sup.start(attrs.evolve(SPEC, restart_policy=on_failure(delay=50, max_delay=60)))
        await until_phase(sup, Phase.BACKOFF)
        assert (await sup.start(SPEC, model="other")).port == 21001
        with pytest.raises(trio_sup.NoPortAvailable):
            await sup.start(SPEC, model="third")
        await trio.sleep(60)
        assert sup.get_address(KEY) == "127.0.0.1:21000"


async def test_the_port_of_a_given_up_one_is_for_others(autojump_clock: MockClock) -> None:
    ports = Choice("lifo", range="21000-21000")
    async with supervised(DIES, FakeBackend(), ports=ports) as (sup, _):
        with pytest.raises(trio_sup.GivenUp):
            await sup.start(attrs.evolve(SPEC, restart_policy=on_failure(max_start_failures=1)))
        assert (await sup.start(SPEC, model="other")).port == 21000
