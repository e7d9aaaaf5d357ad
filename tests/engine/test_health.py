"""Readiness and liveness once a backend is ready, on fake processes and a virtual clock."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_sup
from tests.conftest import next_of
from tests.engine.test_lifecycle import KEY, SPEC, supervised, until_phase
from tests.engine.test_restarts import all_of, phases
from trio_sup import Cause, Liveness, Phase, Readiness, events, hookimpl
from trio_sup._progress import WINDOW
from trio_sup.engine._health import Rotation
from trio_sup.engine._identity import Identity, Verdict
from trio_sup.strategies import ProbeTarget
from trio_sup.testing import FakeBackend, FakeChild

NO_CHECKS = Readiness(period=0)


def checked(child: FakeChild) -> list[float]:
    """When Health was called, in seconds after the launch."""
    return [round(instant - child.launched_at, 6) for instant in child.checked_at]


def watched(readiness: Readiness | None = None, **liveness: Any) -> trio_sup.BackendSpec:
    """A specification with these checks; without *liveness*, readiness alone."""
    return attrs.evolve(
        SPEC, readiness=readiness or NO_CHECKS, liveness=Liveness(**liveness) if liveness else None, restart_policy=None
    )


# ---- readiness


async def test_a_ready_backend_is_checked_every_period(autojump_clock: MockClock) -> None:
    async with supervised() as (sup, system):
        await sup.start(watched(Readiness(period=7)))
        await trio.sleep(30)
        assert checked(system.children[0]) == [0, 7, 14, 21, 28]


async def test_without_a_period_and_liveness_nothing_is_checked(autojump_clock: MockClock) -> None:
    async with supervised(FakeBackend(unhealthy_during=[(1, 9999)])) as (sup, system):
        await sup.start(watched())
        await trio.sleep(1000)
        assert checked(system.children[0]) == [0]
        assert sup.get_address(KEY) is not None


async def test_losing_readiness_takes_it_out_of_rotation_until_it_is_back(autojump_clock: MockClock) -> None:
    readiness = Readiness(period=10, failure_threshold=3, success_threshold=2)
    async with supervised(FakeBackend(unhealthy_during=[(15, 55)])) as (sup, system):
        stream = sup.events()
        ready = await sup.start(watched(readiness))
        unready = await next_of(stream, events.BackendUnready)
        assert trio.current_time() - system.children[0].launched_at == pytest.approx(40)  # failed at 20, 30 and 40
        assert unready.why == "/backend.Backend/Health: UNAVAILABLE: unwell"
        assert str(unready) == f"store#0 is out of rotation: {unready.why}"
        (backend,) = sup.backends
        assert (backend.phase, backend.address, backend.port, backend.pid, backend.why) == (
            Phase.UNREADY, None, ready.port, ready.pid, unready.why,
        )  # fmt: skip
        assert sup.get_address(KEY) is None
        assert sup.is_running(KEY)  # it lives; it is only not handed out
        with pytest.raises(trio_sup.CallFailed, match="not ready"):
            async with sup.channel(KEY):
                pass
        again = await sup.start(watched(readiness))  # waits until it is back
        assert trio.current_time() - system.children[0].launched_at == pytest.approx(70)  # passed at 60 and 70
        assert (again.phase, again.address, again.generation, again.why) == (Phase.READY, ready.address, 1, None)
        assert sup.get_address(KEY) == ready.address
        assert len(system.children) == 1
        back = await next_of(stream, events.BackendReady)
        back = await next_of(stream, events.BackendReady) if back.previous is Phase.STARTING else back
        assert (back.previous, back.start_seconds) == (Phase.UNREADY, ready.start_seconds)


async def test_single_failures_do_not_add_up(autojump_clock: MockClock) -> None:
    blips = [(10 * n - 1, 10 * n + 1) for n in (1, 2, 4, 5, 7, 8)]  # two of three checks fail
    async with supervised(FakeBackend(unhealthy_during=blips)) as (sup, _):
        stream = sup.events()
        await sup.start(watched(Readiness(period=10, failure_threshold=3)))
        await trio.sleep(100)
    assert Phase.UNREADY not in phases(await all_of(stream))


async def test_a_readiness_check_that_hangs_counts_as_failed(autojump_clock: MockClock) -> None:
    readiness = Readiness(period=10, call_timeout=2, failure_threshold=1)
    async with supervised(FakeBackend(hangs_during=[(5, 25)])) as (sup, system):
        await sup.start(watched(readiness))
        await until_phase(sup, Phase.UNREADY)
        assert trio.current_time() - system.children[0].launched_at == pytest.approx(12)
        assert sup.backends[0].why == "no answer within 2 s"
        await until_phase(sup, Phase.READY)


async def test_checks_that_take_longer_than_the_period_follow_each_other_without_overlap(
    autojump_clock: MockClock,
) -> None:
    readiness = Readiness(period=1, call_timeout=3)
    async with supervised(FakeBackend(hangs_during=[(0.5, math.inf)])) as (sup, system):
        await sup.start(watched(readiness))
        await trio.sleep(15)
        assert checked(system.children[0]) == [0, 1, 4, 7, 10, 13]


async def test_it_is_stopped_from_out_of_rotation(autojump_clock: MockClock) -> None:
    readiness = Readiness(period=1, failure_threshold=1)
    async with supervised(FakeBackend(unhealthy_during=[(5, math.inf)])) as (sup, _):
        await sup.start(watched(readiness))
        await until_phase(sup, Phase.UNREADY)

        async def start() -> None:
            with pytest.raises(trio_sup.StoppedDuringStartup, match="asked to stop"):
                await sup.start(watched(readiness))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(start)
            await wait_all_tasks_blocked()
            (report,) = await sup.stop(KEY)
        assert report.report is not None
        assert (report.report.phase, report.report.asked) == (Phase.UNREADY, True)
        assert report.report.last_health_error == "/backend.Backend/Health: UNAVAILABLE: unwell"


async def test_whoever_leaves_while_it_is_out_of_rotation_does_not_end_it(autojump_clock: MockClock) -> None:
    readiness = Readiness(period=1, failure_threshold=1)
    async with supervised(FakeBackend(unhealthy_during=[(5, 60)])) as (sup, system):
        await sup.start(watched(readiness))
        await until_phase(sup, Phase.UNREADY)
        with trio.move_on_after(10):
            await sup.start(watched(readiness))
        await until_phase(sup, Phase.READY)
        assert len(system.children) == 1


async def test_a_crash_out_of_rotation_is_followed_by_a_restart_that_is_waited_for(autojump_clock: MockClock) -> None:
    readiness = Readiness(period=1, failure_threshold=1)
    ill = FakeBackend(unhealthy_during=[(5, math.inf)], exits_after=20, exit_code=1)
    async with supervised(ill, FakeBackend(), restart_policy="on-failure") as (sup, _):
        await sup.start(watched(readiness))
        await until_phase(sup, Phase.UNREADY)
        assert (await sup.start(watched(readiness))).generation == 2


@pytest.mark.parametrize("identity", [
    Identity(Verdict.STRANGER, "port 21000 is served by pid 1 (init)"),
    Identity(Verdict.UNKNOWN, "nothing listens on port 21000 any more", listens=False),
    Identity(Verdict.UNKNOWN, "no permission", uid_matches=False),
], ids=["a stranger", "a closed listener", "another user"])  # fmt: skip
async def test_whoever_loses_the_port_is_not_handed_out(autojump_clock: MockClock, identity: Identity) -> None:
    readiness = Readiness(period=10, failure_threshold=1)
    async with supervised() as (sup, system):
        await sup.start(watched(readiness))
        child = system.children[0]
        child.behaviour = attrs.evolve(child.behaviour, identity=identity)
        await until_phase(sup, Phase.UNREADY)
        assert identity.why in (sup.backends[0].why or "")
        child.behaviour = FakeBackend()
        await until_phase(sup, Phase.READY)


async def test_a_listener_that_was_never_visible_is_not_missed(autojump_clock: MockClock) -> None:
    hidden = Identity(Verdict.UNKNOWN, "no listener is visible in this network namespace", listens=False)
    async with supervised(FakeBackend(identity=hidden)) as (sup, _):
        stream = sup.events()
        await sup.start(watched(Readiness(period=10, failure_threshold=1)))
        await trio.sleep(100)
        assert sup.get_address(KEY) is not None
    told = [event for event in await all_of(stream) if isinstance(event, events.IdentityUncertain)]
    assert len(told) == 1


async def test_one_that_ends_while_its_check_passes_is_not_called_ready_again(autojump_clock: MockClock) -> None:
    class Fatal:
        """Passes, fails, and then passes with the end of the process."""

        needs_listener = speaks_grpc = False

        def __init__(self) -> None:
            self.calls = 0

        async def check(self, target: ProbeTarget) -> None:
            self.calls += 1
            if self.calls == 2:
                raise RuntimeError("not now")
            if self.calls == 3:
                system.children[0].exit()

    async with supervised() as (sup, system):
        stream = sup.events()
        await sup.start(watched(Readiness(probe=Fatal(), period=10, failure_threshold=1)))
        await until_phase(sup, Phase.GONE)
    assert phases(await all_of(stream)) == [
        Phase.WAITING, Phase.STARTING, Phase.READY, Phase.UNREADY, Phase.STOPPING, Phase.GONE,
    ]  # fmt: skip


async def test_one_that_ends_while_its_check_fails_has_lost_nothing_but_its_process(autojump_clock: MockClock) -> None:
    class Fatal(Told):
        async def check(self, target: ProbeTarget) -> None:
            await super().check(target)
            if self.checks == 2:
                system.children[0].exit()
                raise RuntimeError("connection lost")

    probe = Fatal()
    readiness = Readiness(probe=probe, period=10, failure_threshold=1)
    spec = watched(readiness, probe=probe, period=10, failure_threshold=1, busy_timeout=0)
    async with supervised() as (sup, system):
        stream = sup.events()
        await sup.start(spec)
        await until_phase(sup, Phase.GONE)
        assert sup.exit_reports(KEY)[0].cause is Cause.EXITED
    assert phases(await all_of(stream))[2:] == [Phase.READY, Phase.STOPPING, Phase.GONE]


# ---- liveness


async def test_losing_liveness_ends_and_restarts_it(autojump_clock: MockClock) -> None:
    spec = watched(period=10, call_timeout=2, failure_threshold=3)
    hangs = FakeBackend(hangs_during=[(15, math.inf)], stops_after=1)
    async with supervised(hangs, FakeBackend(), restart_policy="on-failure") as (sup, system):
        stream = sup.events()
        await sup.start(spec)
        event = await next_of(stream, events.BackendStopping)
        assert (event.cause, event.previous, event.detail) == (Cause.LIVENESS, Phase.READY, "no answer within 2 s")
        # Failed at 20, 30 and 40; each took 2 s, and the first one another second to see that it is not at work.
        assert trio.current_time() - system.children[0].launched_at == pytest.approx(42)
        again = await next_of(stream, events.BackendReady)
        assert again.generation == 2
        (report,) = sup.exit_reports(KEY)
        assert (report.cause, report.phase, report.asked, report.success) == (
            Cause.LIVENESS, Phase.READY, False, False,
        )  # fmt: skip
        assert report.last_health_error == "no answer within 2 s"


async def test_without_a_restart_policy_one_that_lost_liveness_is_gone(autojump_clock: MockClock) -> None:
    async with supervised(FakeBackend(unhealthy_during=[(15, math.inf)])) as (sup, system):
        await sup.start(watched(period=10, failure_threshold=2))
        await until_phase(sup, Phase.GONE)
        assert checked(system.children[0]) == [0, 10, 20, 30]
        assert sup.exit_reports(KEY)[0].cause is Cause.LIVENESS


async def test_one_success_makes_the_failures_forgotten(autojump_clock: MockClock) -> None:
    blips = [(10 * n - 1, 10 * n + 1) for n in (1, 2, 4, 5, 7, 8)]
    async with supervised(FakeBackend(unhealthy_during=blips)) as (sup, system):
        await sup.start(watched(period=10, failure_threshold=3))
        await trio.sleep(1000)
        assert sup.get_address(KEY) is not None
        assert len(system.children) == 1


async def test_the_same_probe_and_timeout_cost_one_call(autojump_clock: MockClock) -> None:
    async with supervised() as (sup, system):
        await sup.start(watched(Readiness(period=10), period=10))
        await trio.sleep(45)
        assert checked(system.children[0]) == [0, 10, 20, 30, 40]


async def test_one_call_answers_both_whenever_both_are_due(autojump_clock: MockClock) -> None:
    async with supervised() as (sup, system):
        await sup.start(watched(Readiness(period=4), period=6))
        await trio.sleep(25)
        assert checked(system.children[0]) == [0, 4, 6, 8, 12, 16, 18, 20, 24]


async def test_one_call_counts_for_both(autojump_clock: MockClock) -> None:
    readiness = Readiness(period=10, failure_threshold=1)
    spec = watched(readiness, period=10, failure_threshold=2, busy_timeout=0)
    async with supervised(FakeBackend(unhealthy_during=[(5, math.inf)])) as (sup, system):
        stream = sup.events()
        await sup.start(spec)
        await until_phase(sup, Phase.GONE)
        assert checked(system.children[0]) == [0, 10, 20]
    assert phases(await all_of(stream))[2:] == [Phase.READY, Phase.UNREADY, Phase.STOPPING, Phase.GONE]


@pytest.mark.parametrize("liveness", [{"call_timeout": 1}, {"probe": "grpc-health"}], ids=str)
async def test_another_timeout_or_probe_is_another_call(autojump_clock: MockClock, liveness: Mapping[str, Any]) -> None:
    async with supervised() as (sup, system):
        await sup.start(watched(Readiness(period=10), period=10, **liveness))
        await trio.sleep(15)
        assert checked(system.children[0]) == [0, 10, 10]


class Told:
    """A probe that passes until it is told otherwise, and counts its checks."""

    needs_listener = speaks_grpc = False

    def __init__(self) -> None:
        self.ill = False
        self.checks = 0

    async def check(self, target: ProbeTarget) -> None:
        self.checks += 1
        if self.ill:
            raise RuntimeError("told so")


class Denies(Told):
    """A probe that returns what it should raise."""

    async def check(self, target: ProbeTarget) -> bool:  # type: ignore[override]  # the vice under test
        return self.ill


async def test_a_probe_that_returns_false_has_not_passed(autojump_clock: MockClock) -> None:
    async with supervised() as (sup, _):
        with pytest.raises(trio_sup.NotReadyInTime, match="the probe returned False"):
            await sup.start(attrs.evolve(SPEC, readiness=Readiness(probe=Denies())))


async def test_readiness_and_liveness_have_probes_of_their_own(autojump_clock: MockClock) -> None:
    takes_calls, lives = Told(), Told()
    readiness = Readiness(probe=takes_calls, period=1, failure_threshold=1)
    spec = watched(readiness, probe=lives, period=1, failure_threshold=2, busy_timeout=0)
    async with supervised(restart_policy="never") as (sup, _):
        await sup.start(spec)
        takes_calls.ill = True
        await trio.sleep(20)
        assert [backend.phase for backend in sup.backends] == [Phase.UNREADY]
        takes_calls.ill = False
        await trio.sleep(2)
        assert [backend.phase for backend in sup.backends] == [Phase.READY]
        lives.ill = True
        await until_phase(sup, Phase.STOPPING)
    assert sup.exit_reports(KEY)[0].last_health_error == "told so"


async def test_a_probe_that_shields_does_not_hold_up_the_end(autojump_clock: MockClock) -> None:
    class Shielding(Told):
        async def check(self, target: ProbeTarget) -> None:
            await super().check(target)
            if self.checks > 1:
                with trio.CancelScope(shield=True):
                    await trio.sleep(500)

    async with supervised(shutdown_timeout=5) as (sup, _):
        stream = sup.events()
        await sup.start(watched(probe=Shielding(), period=10, call_timeout=1, failure_threshold=1, busy_timeout=0))
        await until_phase(sup, Phase.READY)
        began = trio.current_time()
        await until_phase(sup, Phase.GONE)
        assert trio.current_time() - began < 30
    assert any(isinstance(event, events.PluginStuck) for event in await all_of(stream))


# ---- at work


@pytest.mark.parametrize("work", ["cpu", "reads", "memory", "output"])
async def test_one_at_work_is_not_ended(autojump_clock: MockClock, work: str) -> None:
    """As in a long LoadModel: it answers nothing for five minutes, and then goes on."""
    loading = FakeBackend(hangs_during=[(15, 315)], works_from=15, works_until=315, work=[work])
    async with supervised(loading) as (sup, system):
        stream = sup.events()
        await sup.start(watched(Readiness(period=10, failure_threshold=3), period=10))
        await until_phase(sup, Phase.UNREADY)
        await until_phase(sup, Phase.READY)
        assert 315 <= trio.current_time() - system.children[0].launched_at < 330
        await trio.sleep(1000)
        assert len(system.children) == 1
    moves = phases(await all_of(stream))
    assert moves[2:5] == [Phase.READY, Phase.UNREADY, Phase.READY]


async def test_one_that_works_no_more_is_ended(autojump_clock: MockClock) -> None:
    deadlocks = FakeBackend(hangs_during=[(15, math.inf)], works_from=15, works_until=200)
    async with supervised(deadlocks) as (sup, system):
        await sup.start(watched(period=10, call_timeout=2, failure_threshold=3))
        await until_phase(sup, Phase.GONE)
        ended_at = system.children[0].signals[0][0] - system.children[0].launched_at
    assert 220 <= ended_at <= 200 + 4 * 12 + WINDOW


async def test_work_is_no_excuse_beyond_the_busy_timeout(autojump_clock: MockClock) -> None:
    for_ever = FakeBackend(hangs_during=[(15, math.inf)], works_from=0, work=["cpu", "output"])
    async with supervised(for_ever) as (sup, system):
        await sup.start(watched(period=10, call_timeout=2, failure_threshold=3, busy_timeout=100))
        stream = sup.events()
        event = await next_of(stream, events.BackendStopping)
        assert event.cause is Cause.LIVENESS
        # Last passed at 10. What fails up to 110 is excused; then it takes three failures.
        assert trio.current_time() - system.children[0].launched_at == pytest.approx(142, abs=10)


async def test_without_a_busy_timeout_work_is_no_excuse(autojump_clock: MockClock) -> None:
    for_ever = FakeBackend(unhealthy_during=[(15, math.inf)], works_from=0)
    async with supervised(for_ever) as (sup, system):
        await sup.start(watched(period=10, failure_threshold=3, busy_timeout=0))
        await until_phase(sup, Phase.STOPPING)
        assert trio.current_time() - system.children[0].launched_at == pytest.approx(40)


async def test_little_work_adds_up_over_several_checks(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine where it gets a twentieth of a processor, it is at work all the same."""
    usage = FakeChild.usage

    async def starved(self: FakeChild, **options: Any) -> Any:
        used = await usage(self, **options)
        assert used is not None
        return attrs.evolve(used, cpu_seconds=used.cpu_seconds / 20)

    monkeypatch.setattr(FakeChild, "usage", starved)
    loading = FakeBackend(hangs_during=[(15, 315)], works_from=15, works_until=315)
    async with supervised(loading) as (sup, system):
        await sup.start(watched(period=10, call_timeout=2, failure_threshold=3))
        await trio.sleep(400)
        assert sup.get_address(KEY) is not None
        assert len(system.children) == 1


async def test_a_short_period_does_not_make_work_invisible(autojump_clock: MockClock) -> None:
    loading = FakeBackend(unhealthy_during=[(5, 65)], works_from=5, works_until=65)
    async with supervised(loading) as (sup, _):
        await sup.start(watched(period=0.1, failure_threshold=3))
        await trio.sleep(100)
        assert sup.get_address(KEY) is not None


async def test_work_before_its_checks_failed_is_no_excuse(autojump_clock: MockClock) -> None:
    deadlocks = FakeBackend(unhealthy_during=[(8, 12), (105, math.inf)], works_from=0, works_until=100)
    async with supervised(deadlocks) as (sup, system):
        await sup.start(watched(period=10, failure_threshold=2))
        await until_phase(sup, Phase.STOPPING)
        assert trio.current_time() - system.children[0].launched_at == pytest.approx(120)


async def test_work_between_failures_begins_the_row_anew(autojump_clock: MockClock) -> None:
    """Two checks fail, one is excused, and so on: there are never three in a row."""
    spec = watched(period=10, failure_threshold=3, busy_timeout=200)
    async with supervised(FakeBackend(unhealthy_during=[(15, math.inf)], work=["output"])) as (sup, system):
        await sup.start(spec)
        attempt = sup._table[KEY].attempt
        for _ in range(5):
            await trio.sleep(30)
            attempt.output_bytes += 1
        assert sup.get_address(KEY) is not None
        await until_phase(sup, Phase.STOPPING)
        assert trio.current_time() - system.children[0].launched_at > 170


async def test_a_stop_while_it_is_watched_for_work_is_heeded_at_once(autojump_clock: MockClock) -> None:
    async with supervised(FakeBackend(unhealthy_during=[(5, math.inf)])) as (sup, _):
        await sup.start(watched(period=10))
        await trio.sleep(10.5)
        began = trio.current_time()
        await sup.stop(KEY)
        assert trio.current_time() == began
        assert sup.exit_reports(KEY)[0].cause is Cause.ASKED


# ---- what is counted


@pytest.mark.parametrize(("outcomes", "changes"), [
    ("pppp", ""), ("ffp", ""), ("fff", "2"), ("fffp", "2"), ("fffpp", "24"), ("fffpfpp", "26"), ("ffpfff", "5"),
    ("fffppfff", "247"),
])  # fmt: skip
def test_a_row_of_outcomes_changes_what_is_believed(outcomes: str, changes: str) -> None:
    rotation = Rotation(failure_threshold=3, success_threshold=2)
    changed = [str(index) for index, outcome in enumerate(outcomes) if rotation.changes_with(outcome == "p")]
    assert "".join(changed) == changes
    assert rotation.good == (len(changes) % 2 == 0)


class Offering:
    """A plugin that offers a probe by name."""

    def __init__(self, probe: Told) -> None:
        self.probe = probe

    @hookimpl
    def trio_sup_probes(self) -> Mapping[str, Any]:
        return {"told": lambda: self.probe}


async def test_a_probe_of_a_plugin_watches_as_well(autojump_clock: MockClock) -> None:
    probe = Told()
    async with supervised(plugins=[Offering(probe)]) as (sup, _):
        await sup.start(watched(Readiness(probe="told", period=10), probe="told", period=10, failure_threshold=1))
        await trio.sleep(45)
        assert probe.checks == 5
        probe.ill = True
        await until_phase(sup, Phase.STOPPING)
