"""The engine's decisions over time, on fake processes and a virtual clock."""

from __future__ import annotations

import errno
import math
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_sup
from trio_sup import BackendSpec, Cause, Phase, ProcessKey, Readiness, events
from trio_sup.engine._identity import Identity, Verdict
from trio_sup.strategies import PortsExhausted
from trio_sup.testing import FakeBackend, FakeSystem

SPEC = BackendSpec(name="store", command=[sys.executable, "-c", "pass"])
KEY = ProcessKey("store", 0)

LONGEST = 20_000
"""Virtual seconds; what takes longer never ends."""


@asynccontextmanager
async def supervised(*behaviours: FakeBackend, **options: Any) -> AsyncIterator[tuple[trio_sup.Supervisor, FakeSystem]]:
    system = FakeSystem(behaviours)
    options.setdefault("install_lock", "memory")
    with trio.fail_after(LONGEST):
        async with trio_sup.open_supervisor(system=system, **options) as sup:
            yield sup, system
    assert system.running() == [] or any(child.behaviour.survives_kill for child in system.running())
    assert all(child.closed for child in system.children)
    assert not system.held


async def until_phase(sup: trio_sup.Supervisor, phase: Phase) -> None:
    stream = sup.events()
    if any(backend.phase is phase for backend in sup.backends):
        return
    async for event in stream:
        if isinstance(event, events.BackendMoved) and event.phase is phase:
            return


async def test_start_returns_a_ready_snapshot(autojump_clock: MockClock) -> None:
    async with supervised(FakeBackend(listens_after=1, healthy_after=2)) as (sup, system):
        backend = await sup.start(SPEC)
        assert (backend.key, backend.phase, backend.address) == (KEY, Phase.READY, "127.0.0.1:21000")
        assert backend.pid == system.children[0].pid
        assert 2 <= (backend.start_seconds or 0) < 2.3
        assert sup.get_address("store#0") == backend.address
        assert sup.is_running("store")
        assert sup.backends == (backend,)


async def test_the_first_health_check_comes_with_the_listener_not_after_an_interval(autojump_clock: MockClock) -> None:
    async with supervised(FakeBackend(listens_after=3)) as (sup, _):
        backend = await sup.start(SPEC)
        assert backend.start_seconds == pytest.approx(3, abs=1e-6)


async def test_refused_checks_are_repeated_soon_and_then_at_most_every_interval(autojump_clock: MockClock) -> None:
    for healthy_after in (0.004, 0.3, 7.77):
        async with supervised(FakeBackend(healthy_after=healthy_after)) as (sup, _):
            backend = await sup.start(SPEC)
            lag = (backend.start_seconds or 0) - healthy_after
            assert 0 <= lag <= min(0.2, healthy_after + 0.005) + 1e-6


async def test_concurrent_starts_share_one_attempt(autojump_clock: MockClock) -> None:
    async with supervised(FakeBackend(healthy_after=1)) as (sup, system), trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(sup.start, SPEC)
    assert len(system.children) == 1


async def test_a_ready_backend_is_returned_as_it_is(autojump_clock: MockClock) -> None:
    async with supervised() as (sup, system):
        assert await sup.start(SPEC) == await sup.start(SPEC)
        assert len(system.children) == 1


async def test_replicas_and_models_are_separate_slots(autojump_clock: MockClock) -> None:
    async with supervised() as (sup, _system):
        await sup.start(SPEC, model="a", replica=0)
        await sup.start(SPEC, model="a", replica=1)
        await sup.start(SPEC, model="b")
        assert sup.resolve("a") == (ProcessKey("a", 0), ProcessKey("a", 1))
        assert len(sup.resolve("store")) == 3
        assert {backend.port for backend in sup.backends} == {21000, 21001, 21002}
        await sup.stop("a#1")
        assert sup.resolve("a#1") == ()
        assert len(sup.backends) == 2


async def test_a_deadline_without_any_listener_says_so(autojump_clock: MockClock) -> None:
    async with supervised(FakeBackend(listens_after=math.inf)) as (sup, _system):
        with pytest.raises(trio_sup.NotReadyInTime, match="Last health error: nothing listened on port 21000"):
            await sup.start(SPEC)
        assert sup.exit_reports(KEY)[-1].last_health_error == "nothing listened on port 21000"


async def test_the_deadline_ends_the_attempt_and_says_why(autojump_clock: MockClock) -> None:
    async with supervised(FakeBackend(healthy_after=100, stderr=b"loading weights\n")) as (sup, system):
        with pytest.raises(trio_sup.NotReadyInTime) as caught:
            await sup.start(SPEC)
        assert caught.value.key == KEY
        assert caught.value.timeout == 30
        assert caught.value.stderr_tail == "loading weights"
        assert "still loading" in (caught.value.last_health_error or "")
        assert "did not become ready within 30s" in str(caught.value)
        assert sup.backends == ()
        assert 30 <= trio.current_time() - system.children[0].launched_at < 30.3


async def test_a_health_check_that_hangs_is_bounded_and_named(autojump_clock: MockClock) -> None:
    async with supervised(FakeBackend(health_hangs=True)) as (sup, _):
        with pytest.raises(trio_sup.NotReadyInTime, match="no answer within 2 s"):
            await sup.start(SPEC)


async def test_nothing_listens_until_the_deadline(autojump_clock: MockClock) -> None:
    spec = attrs.evolve(SPEC, readiness=Readiness(timeout="5s"))
    async with supervised(FakeBackend(listens_after=1000)) as (sup, system):
        with pytest.raises(trio_sup.NotReadyInTime):
            await sup.start(spec)
        assert trio.current_time() - system.children[0].launched_at == pytest.approx(5, abs=0.1)


async def test_death_during_startup_is_told_at_once(autojump_clock: MockClock) -> None:
    lines = b"".join(b"line %d\n" % n for n in range(30))
    async with supervised(FakeBackend(listens_after=99, exits_after=1, exit_code=3, stderr=lines)) as (sup, _):
        started = trio.current_time()
        with pytest.raises(trio_sup.DiedDuringStartup) as caught:
            await sup.start(SPEC)
        assert trio.current_time() - started == pytest.approx(1, abs=0.01)
        assert "died during startup" in str(caught.value)
        assert "exit code 3" in str(caught.value)
        assert caught.value.stderr_tail.splitlines() == [f"line {n}" for n in range(10, 30)]
        assert caught.value.report is not None
        assert caught.value.report.cause is Cause.EXITED


async def test_a_death_while_ready_is_an_event_and_a_report(autojump_clock: MockClock) -> None:
    async with supervised(FakeBackend(exits_after=10, exit_code=7, stderr=b"boom")) as (sup, _):
        stream = sup.events()
        await sup.start(SPEC)
        seen = []
        async for event in stream:
            seen.append(event)
            if isinstance(event, events.BackendGone):
                break
        phases = [event.phase for event in seen if isinstance(event, events.BackendMoved)]
        assert phases == [Phase.WAITING, Phase.STARTING, Phase.READY, Phase.STOPPING, Phase.GONE]
        (report,) = sup.exit_reports(KEY)
        assert (report.cause, report.asked, report.success) == (Cause.EXITED, False, False)
        assert report.status is not None
        assert report.status.code == 7
        assert report.stderr_tail == "boom"
        assert report.lived == pytest.approx(10)
        assert [event.sequence for event in seen] == sorted(event.sequence for event in seen)


async def test_a_dead_backend_is_replaced_by_the_next_start(autojump_clock: MockClock) -> None:
    async with supervised(FakeBackend(), FakeBackend()) as (sup, system):
        first = await sup.start(SPEC)
        system.children[0].exit()
        second = await sup.start(SPEC)
        assert second.generation > first.generation
        assert len(system.children) == 2
        assert second.port == first.port  # the port stays with its slot


async def test_a_stop_during_a_start_wins(autojump_clock: MockClock) -> None:
    async with supervised(FakeBackend(healthy_after=20)) as (sup, system), trio.open_nursery() as nursery:

        async def start() -> None:
            with pytest.raises(trio_sup.StoppedDuringStartup, match="asked to stop"):
                await sup.start(SPEC)

        nursery.start_soon(start)
        await until_phase(sup, Phase.STARTING)
        (report,) = await sup.stop("store")
        assert report.gone
    assert system.running() == []


async def test_a_stop_that_meets_a_replacement_leaves_it_alone(autojump_clock: MockClock) -> None:
    async with supervised(FakeBackend(stops_after=3)) as (sup, system), trio.open_nursery() as nursery:
        await sup.start(SPEC)
        nursery.start_soon(sup.stop, "store")
        await until_phase(sup, Phase.STOPPING)
        backend = await sup.start(SPEC)
        assert backend.generation == 2
        assert sup.is_running("store")
        assert len(system.children) == 2


async def test_a_later_stop_wins_over_a_start_that_waits_for_the_end(autojump_clock: MockClock) -> None:
    async with supervised(FakeBackend(stops_after=3)) as (sup, system), trio.open_nursery() as nursery:
        await sup.start(SPEC)
        nursery.start_soon(sup.stop, "store")
        await until_phase(sup, Phase.STOPPING)

        async def start() -> None:
            with pytest.raises(trio_sup.StoppedDuringStartup):
                await sup.start(SPEC)

        nursery.start_soon(start)
        await wait_all_tasks_blocked()
        await sup.stop("store")
        assert sup.backends == ()
    assert len(system.children) == 1


async def test_stopping_goes_free_then_signal_then_grace_then_kill(autojump_clock: MockClock) -> None:
    spec = attrs.evolve(SPEC, grace=4)
    async with supervised(FakeBackend(stops_after=1e9, free_takes=1e9)) as (sup, system):
        await sup.start(spec)
        began = trio.current_time()
        (report,) = await sup.stop("store")
        child = system.children[0]
        assert [instant - began for instant in child.freed_at] == pytest.approx([0], abs=0.01)
        assert [(round(instant - began), number) for instant, number in child.signals] == [
            (5, signal.SIGTERM),
            (9, signal.SIGKILL),
        ]
        assert report.gone
        assert report.report is not None
        assert report.report.killed


async def test_a_polite_end_is_not_killed(autojump_clock: MockClock) -> None:
    async with supervised(FakeBackend(stops_after=2)) as (sup, system):
        await sup.start(SPEC)
        (report,) = await sup.stop("store#0")
        assert report.report is not None
        assert (report.report.killed, report.report.asked, report.report.success) == (False, True, True)
        assert [number for _, number in system.children[0].signals] == [signal.SIGTERM]


async def test_force_kills_at_once_without_free(autojump_clock: MockClock) -> None:
    async with supervised(FakeBackend(stops_after=1e9, free_takes=1e9)) as (sup, system):
        await sup.start(SPEC)
        began = trio.current_time()
        await sup.stop("store", force=True)
        assert trio.current_time() - began < 0.1
        assert system.children[0].freed_at == []
        assert [number for _, number in system.children[0].signals] == [signal.SIGKILL]


async def test_force_cuts_the_grace_of_a_stop_under_way(autojump_clock: MockClock) -> None:
    async with supervised(FakeBackend(stops_after=1e9)) as (sup, _), trio.open_nursery() as nursery:
        await sup.start(SPEC)
        began = trio.current_time()
        nursery.start_soon(sup.stop, "store")
        await until_phase(sup, Phase.STOPPING)
        await trio.sleep(2)
        await sup.stop("store", force=True)
        assert trio.current_time() - began == pytest.approx(2, abs=0.1)


async def test_free_is_only_asked_of_a_backend_that_has_answered(autojump_clock: MockClock) -> None:
    async with supervised(FakeBackend(healthy_after=50)) as (sup, system), trio.open_nursery() as nursery:

        async def start() -> None:
            with pytest.raises(trio_sup.StartFailed):
                await sup.start(SPEC)

        nursery.start_soon(start)
        await until_phase(sup, Phase.STARTING)
        await sup.stop("store")
        assert system.children[0].freed_at == []


async def test_the_last_cancelled_waiter_ends_the_attempt(autojump_clock: MockClock) -> None:
    async with supervised(FakeBackend(healthy_after=20)) as (sup, system):
        with trio.move_on_after(1):
            await sup.start(SPEC)
        assert sup.backends == () or sup.backends[0].phase is not Phase.READY
        await trio.sleep(5)
        assert sup.backends == ()
        assert system.running() == []
        assert sup.exit_reports(KEY)[0].cause is Cause.ABANDONED


async def test_another_waiter_keeps_the_attempt(autojump_clock: MockClock) -> None:
    async with supervised(FakeBackend(healthy_after=5)) as (sup, system), trio.open_nursery() as nursery:
        nursery.start_soon(sup.start, SPEC)
        with trio.move_on_after(1):
            await sup.start(SPEC)
        await until_phase(sup, Phase.READY)
        assert len(system.children) == 1


async def test_a_cancelled_stop_is_finished_all_the_same(autojump_clock: MockClock) -> None:
    async with supervised(FakeBackend(stops_after=3)) as (sup, _system):
        await sup.start(SPEC)
        with trio.move_on_after(1):
            await sup.stop("store")
        assert [backend.phase for backend in sup.backends] == [Phase.STOPPING]
        await trio.sleep(5)
        assert sup.backends == ()


async def test_another_specification_is_a_conflict(autojump_clock: MockClock) -> None:
    async with supervised() as (sup, _system):
        first = await sup.start(SPEC)
        with pytest.raises(trio_sup.SpecConflict, match="grace"):
            await sup.start(attrs.evolve(SPEC, grace=1))
        assert sup.backends == (first,)


async def test_replace_ends_the_old_and_starts_the_new(autojump_clock: MockClock) -> None:
    async with supervised(FakeBackend(stops_after=1)) as (sup, system):
        await sup.start(SPEC)
        backend = await sup.start(attrs.evolve(SPEC, grace=1), replace=True)
        assert backend.spec.grace == 1
        assert len(system.running()) == 1
        assert sup.exit_reports(KEY)[0].cause is Cause.REPLACED


async def test_replace_with_a_command_that_cannot_run_changes_nothing(autojump_clock: MockClock) -> None:
    async with supervised() as (sup, _system):
        first = await sup.start(SPEC)
        with pytest.raises(trio_sup.InvalidCommand):
            await sup.start(attrs.evolve(SPEC, command=["/does/not/exist"]), replace=True)
        assert sup.backends == (first,)


async def test_the_same_specification_under_an_alias_is_reused(autojump_clock: MockClock) -> None:
    async with supervised() as (sup, _system):
        first = await sup.start(attrs.evolve(SPEC, name="cuda12-store", aliases=["store"]), model="m")
        assert await sup.start(SPEC, model="m", replace=True) == first
        with pytest.raises(trio_sup.SpecConflict, match="name"):  # a shared alias alone does not make them one
            await sup.start(attrs.evolve(SPEC, name="cpu-store", aliases=["store"]), model="m")


async def test_an_attempt_replaced_on_disk_is_started_anew(autojump_clock: MockClock, tmp_path: Any) -> None:
    directory = tmp_path / "release"
    directory.mkdir()
    spec = attrs.evolve(SPEC, directory=directory)
    async with supervised() as (sup, _system):
        first = await sup.start(spec)
        assert await sup.start(spec) == first
        directory.rename(tmp_path / "old")
        directory.mkdir()
        second = await sup.start(spec)
        assert second.generation > first.generation
        assert sup.exit_reports(KEY)[0].cause is Cause.STALE_DIRECTORY


async def test_survivors_are_named_and_keep_their_port(autojump_clock: MockClock) -> None:
    async with supervised(FakeBackend(survives_kill=True, stops_after=1e9), FakeBackend()) as (sup, system):
        first = await sup.start(SPEC)
        with pytest.raises(trio_sup.StopFailed, match=f"pid {first.pid}"):
            await sup.stop("store", force=True)
        (backend,) = sup.backends
        assert backend.phase is Phase.STOP_FAILED
        assert [survivor.pid for survivor in backend.survivors] == [first.pid]
        assert backend.port == first.port
        assert backend.port in system.held
        with pytest.raises(trio_sup.StopFailed):  # one more try, and never a second process
            await sup.start(SPEC)
        assert len(system.children) == 1
        system.children[0].release()
        await until_phase(sup, Phase.GONE) if sup.backends else None
        assert (await sup.start(SPEC)).generation == 2


async def test_a_stop_of_survivors_that_ended_meanwhile_succeeds(autojump_clock: MockClock) -> None:
    async with supervised(FakeBackend(survives_kill=True, stops_after=1e9)) as (sup, system):
        await sup.start(SPEC)
        with pytest.raises(trio_sup.StopFailed):
            await sup.stop("store", force=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sup.stop, "store")
            await wait_all_tasks_blocked()
            system.children[0].release()


async def test_shutdown_with_survivors_is_bounded(autojump_clock: MockClock) -> None:
    async with supervised(FakeBackend(survives_kill=True, stops_after=1e9), shutdown_timeout=10) as (sup, _):
        await sup.start(SPEC)
        stream, began = sup.events(), trio.current_time()
    assert trio.current_time() - began <= 11
    assert any([isinstance(event, events.BackendStopFailed) async for event in stream])


async def test_stop_all_takes_the_time_of_the_slowest(autojump_clock: MockClock) -> None:
    slow = [FakeBackend(stops_after=seconds) for seconds in range(1, 11)]
    async with supervised(*slow) as (sup, _):
        for replica in range(10):
            await sup.start(SPEC, replica=replica)
        began = trio.current_time()
        reports = await sup.stop_all()
        assert trio.current_time() - began == pytest.approx(10, abs=0.1)
        assert [report.gone for report in reports] == [True] * 10


async def test_leaving_the_block_ends_everything_within_the_budget(autojump_clock: MockClock) -> None:
    spec = attrs.evolve(SPEC, grace=1000)
    async with supervised(FakeBackend(stops_after=1e9), shutdown_timeout=20) as (sup, system):
        for replica in range(5):
            await sup.start(spec, replica=replica)
        began = trio.current_time()
    assert trio.current_time() - began <= 20
    assert system.running() == []


async def test_an_exception_of_the_block_is_not_wrapped(autojump_clock: MockClock) -> None:
    async def block() -> None:
        async with supervised() as (sup, _):
            await sup.start(SPEC)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await block()


async def test_cancelling_the_block_ends_everything_first(autojump_clock: MockClock) -> None:
    with trio.move_on_after(5) as scope:
        async with supervised(FakeBackend(stops_after=2)) as (sup, system):
            await sup.start(SPEC)
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trio.current_time() - system.children[0].signals[0][0] == pytest.approx(2, abs=0.1)


async def test_a_closed_supervisor_starts_nothing(autojump_clock: MockClock) -> None:
    async with supervised() as (sup, _):
        pass
    with pytest.raises(trio_sup.SupervisorClosed):
        await sup.start(SPEC)
    assert await sup.stop("store") == ()
    assert [event async for event in sup.events()] == []


async def test_a_launch_that_fails_leaves_nothing(autojump_clock: MockClock) -> None:
    error = OSError(errno.ENOEXEC, "Exec format error")
    async with supervised(FakeBackend(launch_error=error), FakeBackend()) as (sup, _):
        with pytest.raises(trio_sup.LaunchFailed, match="Exec format error"):
            await sup.start(SPEC)
        assert sup.backends == ()
        await sup.start(SPEC)


async def test_a_program_that_the_system_does_not_let_us_look_at_is_refused(autojump_clock: MockClock) -> None:
    nobody_can_have = attrs.evolve(SPEC, command=[f"/{'x' * 300}"])
    async with supervised(FakeBackend()) as (sup, _):
        with pytest.raises(trio_sup.InvalidCommand, match="File name too long"):
            await sup.start(nobody_can_have)
        await sup.start(SPEC)
        with pytest.raises(trio_sup.InvalidCommand, match="File name too long"):
            await sup.start(nobody_can_have, replace=True)
        assert [backend.phase for backend in sup.backends] == [Phase.READY]


async def test_too_few_descriptors_are_named(autojump_clock: MockClock) -> None:
    async with supervised(FakeBackend(launch_error=OSError(errno.EMFILE, "Too many open files"))) as (sup, _):
        with pytest.raises(trio_sup.TooFewDescriptors, match="ulimit -n"):
            await sup.start(SPEC)


async def test_a_port_taken_under_the_placeholder_is_tried_once_without_it(autojump_clock: MockClock) -> None:
    dies = FakeBackend(listens_after=9, exits_after=0.1, exit_code=1, stderr=b"bind: Address already in use\n")
    async with supervised(dies, FakeBackend()) as (sup, system):
        backend = await sup.start(SPEC)
        assert backend.generation == 2
        assert backend.port not in system.held
        assert sup.exit_reports(KEY)[0].cause is Cause.PORT_TAKEN
    async with supervised(dies) as (sup, system):
        with pytest.raises(trio_sup.DiedDuringStartup, match="Address already in use"):
            await sup.start(SPEC)
        assert [child.port for child in system.children] == [21000, 21000, 21001]


async def test_a_stranger_on_the_port_is_never_ready(autojump_clock: MockClock) -> None:
    stranger = FakeBackend(identity=Identity(Verdict.STRANGER, "pid 1 (init)"))
    async with supervised(stranger) as (sup, _):
        with pytest.raises(trio_sup.NotReadyInTime, match="not part of this backend: pid 1"):
            await sup.start(SPEC)


@pytest.mark.parametrize(("identity", "uid_matches", "ready"), [
    ("auto", True, True), ("auto", False, False), ("strict", True, False), ("off", False, True),
])  # fmt: skip
async def test_what_cannot_be_told(autojump_clock: MockClock, identity: str, uid_matches: bool, ready: bool) -> None:
    unknown = FakeBackend(identity=Identity(Verdict.UNKNOWN, "no permission", uid_matches=uid_matches))
    async with supervised(unknown) as (sup, _):
        stream = sup.events()
        spec = attrs.evolve(SPEC, identity=identity)
        if ready:
            await sup.start(spec)
        else:
            with pytest.raises(trio_sup.NotReadyInTime, match="cannot tell who owns port") as caught:
                await sup.start(spec)
            assert ("give it identity = 'off'" in str(caught.value)) == (identity == "auto")
    told = any([isinstance(event, events.IdentityUncertain) async for event in stream])
    assert told == (identity == "auto" and ready)


class _Plugin:
    """Offers one misbehaving strategy of each kind."""

    @trio_sup.hookimpl
    def trio_sup_stop_policies(self) -> dict[str, Any]:
        return {"raises": _RaisingPolicy, "shields": _ShieldingPolicy}

    @trio_sup.hookimpl
    def trio_sup_port_strategies(self) -> dict[str, Any]:
        return {"nonsense": _NonsensePorts, "empty": _NoPorts}


class _RaisingPolicy:
    def budget(self, spec: BackendSpec) -> float:
        return 5

    async def stop(self, target: Any) -> None:
        raise RuntimeError("policy broken")


class _ShieldingPolicy(_RaisingPolicy):
    async def stop(self, target: Any) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(60)


class _NonsensePorts:
    def allocate(self, key: ProcessKey, now: float, hold: Any) -> int:
        hold(21500)
        return 7

    def release(self, key: ProcessKey, port: int, now: float) -> None:
        raise RuntimeError("release broken")


class _NoPorts(_NonsensePorts):
    def allocate(self, key: ProcessKey, now: float, hold: Any) -> int:
        raise PortsExhausted("no port left in 1-2")


@pytest.mark.parametrize(("policy", "seconds"), [("raises", 2), ("shields", 5)])
async def test_a_stop_policy_that_fails_still_ends_in_a_proven_end(
    autojump_clock: MockClock, policy: str, seconds: float
) -> None:
    async with supervised(FakeBackend(stops_after=2), plugins=[_Plugin()], stop_policy=policy) as (sup, _):
        stream = sup.events()
        await sup.start(SPEC)
        began = trio.current_time()
        (report,) = await sup.stop("store")
        assert report.gone
        assert trio.current_time() - began == pytest.approx(seconds, abs=0.2)
    named = [event async for event in stream if isinstance(event, events.PluginFailed)]
    assert any(policy in event.plugin for event in named)


async def test_a_port_strategy_that_returns_nonsense_is_replaced(autojump_clock: MockClock) -> None:
    async with supervised(plugins=[_Plugin()], ports="nonsense") as (sup, system):
        stream = sup.events()
        assert (await sup.start(SPEC)).port == 21000
        assert system.held == {21000}
    assert any([isinstance(event, events.PluginFailed) async for event in stream])


async def test_no_port_left_is_a_typed_error(autojump_clock: MockClock) -> None:
    async with supervised(plugins=[_Plugin()], ports="empty") as (sup, _):
        with pytest.raises(trio_sup.NoPortAvailable, match="1-2"):
            await sup.start(SPEC)


async def test_a_released_port_is_quarantined(autojump_clock: MockClock) -> None:
    async with supervised() as (sup, _):
        first = await sup.start(SPEC, model="a")
        await sup.stop("a")
        other = await sup.start(SPEC, model="b")
        assert other.port != first.port
        await trio.sleep(16)
        assert (await sup.start(SPEC, model="a")).port == first.port


async def test_strangers_ports_are_passed_over(autojump_clock: MockClock) -> None:
    async with supervised() as (sup, system):
        system.taken = {21000, 21001}
        assert (await sup.start(SPEC)).port == 21002


async def test_the_install_lock_is_held_for_a_launch(autojump_clock: MockClock) -> None:
    held: list[tuple[str, bool]] = []

    class Lock:
        @asynccontextmanager
        async def hold(self, backend: str, *, shared: bool) -> AsyncIterator[None]:
            await trio.sleep(5)
            held.append((backend, shared))
            yield

    async with supervised(install_lock=Lock()) as (sup, _system), trio.open_nursery() as nursery:
        nursery.start_soon(sup.start, SPEC)
        await wait_all_tasks_blocked()
        (backend,) = sup.backends
        assert (backend.phase, backend.waits_for, backend.port) == (Phase.WAITING, "the install lock of store", None)
        await until_phase(sup, Phase.READY)
        assert held == [("store", True)]
        assert (sup.backends[0].start_seconds or 0) < 1  # waiting does not use up the readiness deadline


async def test_a_stop_while_waiting_for_the_lock_leaves_nothing(autojump_clock: MockClock) -> None:
    class Lock:
        @asynccontextmanager
        async def hold(self, backend: str, *, shared: bool) -> AsyncIterator[None]:
            await trio.sleep_forever()
            yield

    async with supervised(install_lock=Lock()) as (sup, system), trio.open_nursery() as nursery:

        async def start() -> None:
            with pytest.raises(trio_sup.StoppedDuringStartup):
                await sup.start(SPEC)

        nursery.start_soon(start)
        await until_phase(sup, Phase.WAITING)
        (report,) = await sup.stop("store")
        assert report.gone
        assert report.report is None
        assert system.children == []


async def test_an_internal_error_ends_that_attempt_only(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with supervised() as (sup, system):
        await sup.start(SPEC, model="other")
        real = system.wait_for_listener

        async def broken(port: int) -> None:
            if port == 21001:
                raise RuntimeError("a bug")
            await real(port)

        monkeypatch.setattr(system, "wait_for_listener", broken)
        with pytest.raises(trio_sup.AttemptCrashed, match="a bug"):
            await sup.start(SPEC, model="hit")
        (report,) = sup.exit_reports("hit#0")
        assert "RuntimeError: a bug" in (report.traceback or "")
        assert [str(backend.key) for backend in sup.backends] == ["other#0"]
        assert len(system.running()) == 1


async def test_a_slow_observer_is_told_what_it_lost(autojump_clock: MockClock) -> None:
    async with supervised() as (sup, _):
        stream = sup.events()
        for replica in range(401):
            await sup.start(SPEC, replica=replica)
    seen = [event async for event in stream]
    assert isinstance(seen[0], events.EventsLost)
    assert seen[0].count + len(seen) - 1 == seen[-1].sequence


async def test_observers_that_share_a_stream_see_each_event_once_and_its_end(autojump_clock: MockClock) -> None:
    seen: list[events.Event] = []
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery, supervised() as (sup, _):
            stream = sup.events()

            async def observe() -> None:
                async for event in stream:
                    seen.append(event)

            for _ in range(2):
                nursery.start_soon(observe)
            await wait_all_tasks_blocked()
            await sup.start(SPEC)
    assert [event.sequence for event in seen] == list(range(1, len(seen) + 1))
    assert isinstance(seen[-1], events.BackendGone)


@pytest.mark.parametrize("model", ["", "  ", "a\nb"])
async def test_a_bad_key_changes_nothing(autojump_clock: MockClock, model: str) -> None:
    async with supervised() as (sup, _):
        stream = sup.events()
        with pytest.raises(trio_sup.InvalidValue):
            await sup.start(SPEC, model=model)
        with pytest.raises(trio_sup.InvalidValue):
            await sup.start(SPEC, replica=-1)
        with pytest.raises(trio_sup.InvalidValue):
            sup.get_address("no-replica")
        assert sup.backends == ()
    assert [event async for event in stream] == []


async def test_a_snapshot_in_the_place_of_its_key_is_refused(autojump_clock: MockClock) -> None:
    async with supervised() as (sup, _):
        backend: Any = await sup.start(SPEC)
        with pytest.raises(trio_sup.InvalidValue, match="expected a process key"):
            await sup.stop(backend)
        with pytest.raises(trio_sup.InvalidValue, match="expected a process key"):
            await sup.undefine(backend)
        with pytest.raises(trio_sup.InvalidValue, match="expected a process key"):
            async with sup.use(backend):
                pass
        with pytest.raises(trio_sup.InvalidValue, match="expected a process key"):
            sup.is_running(backend)


async def test_calls_from_a_task_older_than_the_supervisor(autojump_clock: MockClock) -> None:
    send, receive = trio.open_memory_channel[trio_sup.Supervisor](0)
    done = trio.Event()

    async def older() -> None:
        sup = await receive.receive()
        await sup.start(SPEC)
        await sup.stop("store")
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(older)
        await wait_all_tasks_blocked()
        async with supervised() as (sup, _):
            await send.send(sup)
            await done.wait()
