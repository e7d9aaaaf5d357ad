"""`use`: start on demand, hold while in use, stop when idle; on a virtual clock."""

from __future__ import annotations

from collections import Counter
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_sup
from tests.engine.staging import GivesUp, Stage, again, phases, spec, staged, until
from trio_sup import Cause, Phase, Readiness
from trio_sup.testing import FakeBackend, cancel_at_every_step

CHAT = spec("chat")
IDLE = spec("chat", idle_timeout=60)
SLOW_STOP = FakeBackend(stops_after=3)


def leases(sup: trio_sup.Supervisor) -> dict[str, int]:
    return {str(backend.key): backend.leases for backend in sup.backends}


# ---- starting on demand


async def test_what_is_defined_is_started_on_demand_and_stays(autojump_clock: MockClock) -> None:
    async with staged(Stage()) as sup:
        assert sup.define(CHAT) == (trio_sup.ProcessKey("chat"),)
        assert sup.backends == ()
        async with sup.use("chat") as backend:
            assert (str(backend.key), backend.phase, backend.address) == ("chat#0", Phase.READY, "127.0.0.1:21000")
            assert leases(sup) == {"chat#0": 1}
        assert leases(sup) == {"chat#0": 0}
        await trio.sleep(1000)
        assert phases(sup) == {"chat#0": Phase.READY}


@pytest.mark.parametrize("name", ["chat#1", "chat", "gpt", "talker"])
async def test_it_goes_by_key_model_name_or_alias(name: str, autojump_clock: MockClock) -> None:
    async with staged(Stage()) as sup:
        sup.define(spec("talker", aliases=["gpt"]), model="chat", replicas=2)
        async with sup.use(name) as backend:
            assert backend.key == trio_sup.ProcessKey("chat", 1 if name == "chat#1" else 0)


@pytest.mark.parametrize("replicas", [0, True, 1.0, "2"])
async def test_a_number_of_replicas_that_makes_no_sense_is_refused_by_name(
    replicas: Any, autojump_clock: MockClock
) -> None:
    async with staged(Stage()) as sup:
        with pytest.raises(trio_sup.InvalidValue, match=r"^replicas: expected a whole number"):
            sup.define(CHAT, replicas=replicas)


async def test_a_specification_is_defined_by_its_use(autojump_clock: MockClock) -> None:
    async with staged(Stage()) as sup:
        async with sup.use(CHAT, model="m", replica=2) as backend:
            assert str(backend.key) == "m#2"
        async with sup.use("m#2") as again_:
            assert again_.generation == backend.generation


async def test_another_specification_than_the_running_one_is_a_conflict(autojump_clock: MockClock) -> None:
    async with staged(Stage()) as sup:
        await sup.start(CHAT)
        with pytest.raises(trio_sup.SpecConflict, match="grace"):
            async with sup.use(attrs.evolve(CHAT, grace=1)):
                pass
        async with sup.use(CHAT):
            pass


async def test_a_name_nobody_knows_is_told_with_the_nearest(autojump_clock: MockClock) -> None:
    async with staged(Stage()) as sup:
        sup.define(CHAT)
        with pytest.raises(trio_sup.UnknownBackend, match=r"unknown backend 'chad'.* did you mean 'chat'"):
            async with sup.use("chad"):
                pass
        with pytest.raises(trio_sup.InvalidValue, match="leave out model and replica"):
            async with sup.use("chat", model="m"):
                pass


async def test_concurrent_users_share_one_start(autojump_clock: MockClock) -> None:
    stage = Stage(chat=FakeBackend(listens_after=5))
    seen: list[trio_sup.Backend] = []
    async with staged(stage) as sup:
        sup.define(CHAT)

        async def use() -> None:
            async with sup.use("chat") as backend:
                seen.append(backend)
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(use)
            nursery.start_soon(sup.start, "chat")
            await until(sup, "chat#0", Phase.READY)
            assert leases(sup) == {"chat#0": 10}  # held from the moment at which it is ready
        assert leases(sup) == {"chat#0": 0}
    assert len(stage.of["chat"]) == 1
    assert len({backend.generation for backend in seen}) == 1


async def test_what_it_needs_is_started_with_it(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with staged(stage) as sup:
        sup.define(spec("db"))
        sup.define(spec("chat", needs=["db"]))
        async with sup.use("chat"):
            assert stage.keys(Phase.READY) == ["db#0", "chat#0"]


async def test_a_start_that_fails_is_raised_and_can_be_tried_again(autojump_clock: MockClock) -> None:
    stage = Stage(chat=[FakeBackend(exits_after=1, listens_after=9), FakeBackend()])
    async with staged(stage) as sup:
        sup.define(CHAT)
        with pytest.raises(trio_sup.DiedDuringStartup):
            async with sup.use("chat"):
                pass
        async with sup.use("chat"):
            pass
        assert leases(sup) == {"chat#0": 0}


async def test_the_error_of_the_block_is_raised_as_it_is(autojump_clock: MockClock) -> None:
    async with staged(Stage()) as sup:
        sup.define(CHAT)
        with pytest.raises(ZeroDivisionError):
            async with sup.use("chat"):
                raise ZeroDivisionError
        assert leases(sup) == {"chat#0": 0}


# ---- using what is in some other phase


async def test_use_waits_for_one_that_is_out_of_rotation(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with staged(stage) as sup:
        await sup.start(spec("chat", readiness=Readiness(period=1, failure_threshold=1)))
        (child,) = stage.of["chat"]
        child.behaviour = attrs.evolve(child.behaviour, healthy_after=20)
        await until(sup, "chat#0", Phase.UNREADY)
        async with sup.use("chat"):
            assert trio.current_time() == pytest.approx(20, abs=1)
            assert leases(sup) == {"chat#0": 1}
        assert len(stage.of["chat"]) == 1


async def test_use_waits_for_the_next_attempt_and_does_not_hurry_it(autojump_clock: MockClock) -> None:
    stage = Stage(chat=[FakeBackend(exits_after=5, exit_code=1), FakeBackend()])
    async with staged(stage, restart_policy=GivesUp(5, delay=30)) as sup:
        await sup.start(CHAT)
        await until(sup, "chat#0", Phase.BACKOFF)
        async with sup.use("chat") as backend:
            assert trio.current_time() == pytest.approx(35, abs=0.1)
            assert backend.phase is Phase.READY


async def test_use_at_the_very_end_of_one_that_failed_does_not_hurry_its_restart_either(
    autojump_clock: MockClock,
) -> None:
    stage = Stage(chat=FakeBackend(exits_after=5, exit_code=1))
    async with staged(stage, restart_policy=GivesUp(5, delay=30)) as sup:
        await sup.start(CHAT)
        for attempt in range(2, 6):
            await until(sup, "chat#0", Phase.STOPPING)
            async with sup.use("chat") as backend:
                assert backend.generation == attempt
        await until(sup, "chat#0", Phase.GIVEN_UP)
        assert [round(child.launched_at) for child in stage.of["chat"]] == [0, 35, 70, 105, 140, 175]


async def test_use_at_the_end_of_one_that_is_not_restarted_starts_it_anew(autojump_clock: MockClock) -> None:
    stage = Stage(chat=[FakeBackend(exits_after=5, exit_code=1), FakeBackend()])
    async with staged(stage) as sup:
        await sup.start(CHAT)
        await until(sup, "chat#0", Phase.STOPPING)
        async with sup.use("chat") as backend:
            assert backend.generation == 2


async def test_use_while_it_is_stopped_starts_it_anew(autojump_clock: MockClock) -> None:
    stage = Stage(chat=SLOW_STOP)
    async with staged(stage) as sup, trio.open_nursery() as nursery:
        await sup.start(CHAT)
        nursery.start_soon(sup.stop, "chat")
        await until(sup, "chat#0", Phase.STOPPING)
        async with sup.use("chat") as backend:
            assert backend.generation == 2
            assert trio.current_time() == pytest.approx(3, abs=0.1)


async def test_use_of_one_whose_stop_waits_for_its_dependents_starts_it_anew(autojump_clock: MockClock) -> None:
    stage = Stage(api=SLOW_STOP)
    async with staged(stage) as sup, trio.open_nursery() as nursery:
        await sup.start(CHAT)
        await sup.start(spec("api", needs=["chat"]))
        nursery.start_soon(sup.stop, "chat")
        await until(sup, "api#0", Phase.STOPPING)
        assert phases(sup)["chat#0"] is Phase.READY
        async with sup.use("chat") as backend:
            assert backend.generation == 3


async def test_use_of_one_that_was_given_up_raises_until_it_is_started(autojump_clock: MockClock) -> None:
    stage = Stage(chat=[FakeBackend(exits_after=5, exit_code=1), FakeBackend()])
    async with staged(stage, restart_policy=GivesUp()) as sup:
        await sup.start(CHAT)
        await until(sup, "chat#0", Phase.GIVEN_UP)
        for _ in range(2):
            with pytest.raises(trio_sup.GivenUp, match="chat#0 was given up: enough"):
                async with sup.use("chat"):
                    pass
        await sup.start("chat")
        async with sup.use("chat"):
            pass


async def test_one_that_is_given_up_while_it_is_waited_for_raises(autojump_clock: MockClock) -> None:
    stage = Stage(chat=FakeBackend(exits_after=5, exit_code=1, listens_after=9))
    async with staged(stage, restart_policy=GivesUp(2, delay=1)) as sup:
        sup.define(CHAT)
        with pytest.raises(trio_sup.GivenUp, match="enough"):
            async with sup.use("chat"):
                pass
        assert leases(sup) == {"chat#0": 0}


async def test_a_replica_that_can_still_be_started_is_used_instead_of_one_that_was_given_up(
    autojump_clock: MockClock,
) -> None:
    stage = Stage(**{"chat#0": FakeBackend(exits_after=5, exit_code=1)})
    async with staged(stage, restart_policy=GivesUp()) as sup:
        sup.define(CHAT, replicas=2)
        await sup.start("chat#0")
        await until(sup, "chat#0", Phase.GIVEN_UP)
        async with sup.use("chat") as backend:
            assert str(backend.key) == "chat#1"
        with pytest.raises(trio_sup.GivenUp):
            async with sup.use("chat#0"):
                pass


async def test_use_after_the_end_of_the_supervisor_is_refused(autojump_clock: MockClock) -> None:
    async with staged(Stage()) as sup:
        sup.define(CHAT)
    with pytest.raises(trio_sup.SupervisorClosed):
        async with sup.use("chat"):
            pass


async def test_a_user_from_outside_is_told_when_the_supervisor_ends(autojump_clock: MockClock) -> None:
    async def use(sup: trio_sup.Supervisor) -> None:
        with pytest.raises((trio_sup.StartFailed, trio_sup.SupervisorClosed)):
            async with sup.use("chat"):
                pass

    async with trio.open_nursery() as nursery, staged(Stage(chat=FakeBackend(listens_after=20))) as sup:
        sup.define(CHAT)
        nursery.start_soon(use, sup)
        await until(sup, "chat#0", Phase.STARTING)


# ---- which replica


async def test_users_spread_over_the_ready_replicas(autojump_clock: MockClock) -> None:
    async with staged(Stage()) as sup:
        for key in sup.define(CHAT, replicas=3):
            await sup.start(key)
        used: Counter[str] = Counter()

        async def use() -> None:
            async with sup.use("chat") as backend:
                used[str(backend.key)] += 1
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(use)
        assert used == {"chat#0": 4, "chat#1": 4, "chat#2": 4}
        async with sup.use("chat#0"), sup.use("chat#2"), sup.use("chat") as backend:
            assert str(backend.key) == "chat#1"


async def test_a_ready_replica_is_taken_before_one_that_starts_or_leaves(autojump_clock: MockClock) -> None:
    stage = Stage(**{"chat#0": FakeBackend(stops_after=50), "chat#1": FakeBackend(listens_after=5)})
    async with staged(stage) as sup, trio.open_nursery() as nursery:
        sup.define(CHAT, replicas=2)
        await sup.start("chat#0")
        nursery.start_soon(sup.start, "chat#1")
        await until(sup, "chat#1", Phase.STARTING)
        async with sup.use("chat") as backend:
            assert str(backend.key) == "chat#0"
        nursery.start_soon(sup.stop, "chat#0")
        await until(sup, "chat#0", Phase.STOPPING)
        async with sup.use("chat") as backend:
            assert str(backend.key) == "chat#1"
            assert trio.current_time() == pytest.approx(5, abs=0.1)


async def test_one_whose_stop_has_yet_to_begin_is_not_preferred(autojump_clock: MockClock) -> None:
    stage = Stage(**{"chat#1": FakeBackend(listens_after=5), "api#0": FakeBackend(stops_after=50)})
    async with staged(stage) as sup, trio.open_nursery() as nursery:
        sup.define(CHAT, replicas=2)
        await sup.start("chat#0")
        await sup.start(spec("api", needs=["chat#0"]))
        nursery.start_soon(sup.start, "chat#1")
        nursery.start_soon(sup.stop, "chat#0")
        await until(sup, "api#0", Phase.STOPPING)
        async with sup.use("chat") as backend:
            assert str(backend.key) == "chat#1"


# ---- leases and the life of a slot


async def test_a_lease_survives_a_restart(autojump_clock: MockClock) -> None:
    stage = Stage(chat=[FakeBackend(exits_after=5, exit_code=1), FakeBackend()])
    async with staged(stage, restart_policy=GivesUp(5, delay=1)) as sup:
        sup.define(IDLE)
        async with sup.use("chat"):
            await again(sup, "chat#0", Phase.READY)
            assert leases(sup) == {"chat#0": 1}
            await trio.sleep(1000)  # and it is not idle
        assert leases(sup) == {"chat#0": 0}
        await until(sup, "chat#0", Phase.GONE)


async def test_a_lease_does_not_keep_a_stop_away_and_ends_with_its_slot(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with staged(stage) as sup:
        sup.define(CHAT)
        async with sup.use("chat"):
            await sup.stop("chat")
            assert sup.backends == ()
            async with sup.use("chat"):
                assert leases(sup) == {"chat#0": 1}
            assert leases(sup) == {"chat#0": 0}
        assert leases(sup) == {"chat#0": 0}  # the old lease was on the slot that is gone


async def test_one_that_dies_as_soon_as_it_is_ready_is_never_handed_out_dead(autojump_clock: MockClock) -> None:
    stage = Stage(chat=[FakeBackend(exits_after=5, listens_after=5, exit_code=1), FakeBackend()])
    async with staged(stage, restart_policy=GivesUp(9, delay=1)) as sup:
        sup.define(CHAT)
        async with sup.use("chat") as backend:
            assert backend.phase is Phase.READY
            assert sup.get_address("chat#0") == backend.address
        assert leases(sup) == {"chat#0": 0}


# ---- idle time


async def test_it_is_stopped_exactly_when_it_has_been_idle_for_its_time(autojump_clock: MockClock) -> None:
    async with staged(Stage(chat=FakeBackend(listens_after=2))) as sup:
        await sup.start(IDLE)
        await until(sup, "chat#0", Phase.GONE)
        assert trio.current_time() == pytest.approx(62, abs=0.001)
        report = sup.exit_reports("chat#0")[0]
        assert (report.cause, report.asked, report.success) == (Cause.IDLE, True, True)


async def test_an_idle_end_is_not_restarted_and_the_next_use_starts_it(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with staged(stage, restart_policy="always") as sup:
        await sup.start(IDLE)
        await until(sup, "chat#0", Phase.GONE)
        await trio.sleep(1000)
        assert sup.backends == ()
        async with sup.use("chat"):
            pass
        assert len(stage.of["chat"]) == 2


async def test_use_and_channel_begin_the_idle_time_anew_when_they_end(autojump_clock: MockClock) -> None:
    async with staged(Stage()) as sup:
        await sup.start(IDLE)
        await trio.sleep(50)
        async with sup.use("chat"):
            await trio.sleep(5)
        await trio.sleep(50)
        async with sup.channel("chat#0"):
            await trio.sleep(5)
        await trio.sleep(59.9)
        assert phases(sup) == {"chat#0": Phase.READY}
        await until(sup, "chat#0", Phase.GONE)
        assert trio.current_time() == pytest.approx(110 + 60, abs=0.001)


@pytest.mark.parametrize("way", ["use", "channel"])
async def test_a_leased_one_is_never_idle(way: str, autojump_clock: MockClock) -> None:
    async with staged(Stage()) as sup:
        await sup.start(IDLE)
        async with sup.use("chat") if way == "use" else sup.channel("chat#0"):
            await trio.sleep(10_000)
            assert phases(sup) == {"chat#0": Phase.READY}
            async with sup.use("chat"):
                pass
            await trio.sleep(100)  # the end of one lease is not that of the other
            assert phases(sup) == {"chat#0": Phase.READY}
        await until(sup, "chat#0", Phase.GONE)


async def test_a_pinned_one_has_no_idle_time(autojump_clock: MockClock) -> None:
    with pytest.raises(trio_sup.InvalidValue, match="idle_timeout: has no effect on a pinned backend"):
        attrs.evolve(IDLE, pinned=True)
    async with staged(Stage()) as sup:
        await sup.start(spec("chat", pinned=True))
        await trio.sleep(10_000)
        assert phases(sup) == {"chat#0": Phase.READY}


async def test_a_needed_one_is_not_idle_before_its_dependents_are_gone(autojump_clock: MockClock) -> None:
    async with staged(Stage(api=FakeBackend(stops_after=7))) as sup:
        await sup.start(IDLE)
        await sup.start(spec("api", needs=["chat"]))
        await trio.sleep_until(1000)
        assert phases(sup) == {"api#0": Phase.READY, "chat#0": Phase.READY}
        await sup.stop("api")
        await until(sup, "chat#0", Phase.GONE)
        assert trio.current_time() == pytest.approx(1007 + 60, abs=0.1)


async def test_the_time_with_dependents_is_no_idle_time(autojump_clock: MockClock) -> None:
    async with staged(Stage()) as sup:
        await sup.start(IDLE)
        await sup.start(spec("api", needs=["chat"]))
        await trio.sleep_until(30)
        await sup.stop("api")
        await until(sup, "chat#0", Phase.GONE)
        assert trio.current_time() == pytest.approx(90, abs=0.1)


async def test_two_idle_replicas_do_not_both_leave_what_needs_them(autojump_clock: MockClock) -> None:
    async with staged(Stage()) as sup:
        for key in sup.define(IDLE, replicas=2):
            await sup.start(key)
        await sup.start(spec("api", needs=["chat"]))
        await trio.sleep(1000)
        assert list(phases(sup).values()) == [Phase.READY, Phase.READY]
        assert "api#0" in phases(sup)


async def test_an_idle_chain_ends_from_its_top(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with staged(stage) as sup:
        sup.define(spec("db", idle_timeout=10))
        sup.define(spec("chat", needs=["db"], idle_timeout=60))
        async with sup.use("chat"):
            await trio.sleep(500)
        await until(sup, "db#0", Phase.GONE)
        assert stage.keys(Phase.GONE) == ["chat#0", "db#0"]
        assert trio.current_time() == pytest.approx(570, abs=0.1)


async def test_idle_backends_are_not_woken_by_the_leases_of_others(autojump_clock: MockClock) -> None:
    steps = 0

    class Counts(trio.abc.Instrument):
        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            nonlocal steps
            steps += 1

    async with staged(Stage()) as sup:
        for n in range(50):
            await sup.start(spec(f"m{n}", idle_timeout=10_000, readiness=Readiness(period=0)))
        await sup.start(CHAT)
        await wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(Counts())
        for _ in range(50):
            async with sup.use("chat"):
                await trio.lowlevel.checkpoint()
        assert steps < 50 * 20


# ---- cancellation


@pytest.mark.parametrize("others", [0, 1])
@pytest.mark.parametrize("needs", [[], ["db"]])
async def test_cancelling_use_at_any_step_leaves_no_lease_and_no_start(
    others: int, needs: list[str], autojump_clock: MockClock
) -> None:
    stage = Stage(chat=FakeBackend(listens_after=1), db=FakeBackend(listens_after=1))
    async with staged(stage) as sup:
        sup.define(spec("db"))
        sup.define(spec("chat", needs=needs))
        other_done = trio.Event()

        async def other() -> None:
            async with sup.use("chat"):
                pass
            other_done.set()

        async with trio.open_nursery() as nursery:

            async def operation() -> None:
                nonlocal other_done
                other_done = trio.Event()
                for _ in range(others):
                    nursery.start_soon(other)
                async with sup.use("chat"):
                    await trio.sleep(1)

            async def check() -> None:
                if others:
                    with trio.fail_after(100):
                        await other_done.wait()
                await wait_all_tasks_blocked(0.001)
                ready = [backend for backend in sup.backends if backend.phase is not Phase.READY]
                assert ready == []
                assert set(leases(sup).values()) <= {0}
                await sup.stop_all(force=True)
                assert stage.running() == []

            steps = await cancel_at_every_step(operation, check)
        assert steps > 10


async def test_cancelling_use_while_something_else_is_waited_for_leaves_no_lease(autojump_clock: MockClock) -> None:
    stage = Stage(chat=[FakeBackend(exits_after=1, exit_code=1, stops_after=1), *[FakeBackend()] * 500])
    async with staged(stage, restart_policy=GivesUp(1000, delay=1)) as sup:

        async def operation() -> None:
            await sup.start(CHAT)
            stage.of["chat"][-1].exit(trio_sup.ExitStatus(code=1))
            await until(sup, "chat#0", Phase.STOPPING)
            async with sup.use("chat"):
                pass

        async def check() -> None:
            await trio.sleep(10)
            assert set(leases(sup).values()) <= {0}
            await sup.stop_all(force=True)

        await cancel_at_every_step(operation, check)
