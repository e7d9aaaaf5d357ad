"""`needs` and `bind`: in which order backends start and stop, and who goes when one fails; on a virtual clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_sup
from tests.engine.staging import AT_ONCE, GivesUp, Stage, fails, phases, spec, staged, until
from trio_sup import Cause, Phase, Readiness
from trio_sup.testing import FakeBackend

DB = spec("db")
API = spec("api", needs=["db"])
WEB = spec("web", needs=["api"])
BOUND = spec("api", needs=["db"], bind=True)
SLOW_STOP = FakeBackend(stops_after=3)


# ---- starting


async def test_what_is_needed_is_started_first_and_ready_before_the_launch(autojump_clock: MockClock) -> None:
    stage = Stage(db=FakeBackend(healthy_after=5), api=FakeBackend(healthy_after=2))
    async with staged(stage) as sup:
        for each in (WEB, API, DB):
            sup.define(each)
        web = await sup.start("web")
        assert web.phase is Phase.READY
        assert stage.keys(Phase.READY) == ["db#0", "api#0", "web#0"]
        assert stage.at("api#0", Phase.STARTING) == stage.at("db#0", Phase.READY)
        assert stage.at("web#0", Phase.STARTING) == stage.at("api#0", Phase.READY)
        assert stage.waited_for("api#0")[0] == "db, which it needs"


async def test_it_waits_for_what_somebody_else_starts(autojump_clock: MockClock) -> None:
    stage = Stage(db=FakeBackend(healthy_after=5))
    async with staged(stage) as sup, trio.open_nursery() as nursery:
        nursery.start_soon(sup.start, API)
        await trio.sleep(100)
        assert phases(sup) == {"api#0": Phase.WAITING}  # nobody has said what "db" is
        await sup.start(DB)
        await until(sup, "api#0", Phase.READY)
    assert stage.keys(Phase.READY) == ["db#0", "api#0"]


async def test_what_is_defined_while_it_is_waited_for_is_started(autojump_clock: MockClock) -> None:
    stage = Stage(db=FakeBackend(healthy_after=5))
    async with staged(stage) as sup, trio.open_nursery() as nursery:
        nursery.start_soon(sup.start, API)
        await trio.sleep(100)
        sup.define(DB)
        await until(sup, "api#0", Phase.READY)
        assert trio.current_time() == pytest.approx(105, abs=0.5)
    assert stage.keys(Phase.READY) == ["db#0", "api#0"]


async def test_waiting_does_not_use_up_the_readiness_deadline(autojump_clock: MockClock) -> None:
    stage = Stage(db=FakeBackend(healthy_after=25), api=FakeBackend(healthy_after=4))
    async with staged(stage) as sup:
        sup.define(DB)
        api = await sup.start(attrs.evolve(API, readiness=Readiness(timeout=5)))
        assert api.start_seconds == pytest.approx(4, abs=0.2)


async def test_all_that_is_needed_is_started_at_the_same_time(autojump_clock: MockClock) -> None:
    stage = Stage(db=FakeBackend(listens_after=5), cache=FakeBackend(listens_after=7))
    async with staged(stage) as sup:
        sup.define(DB)
        sup.define(spec("cache"))
        await sup.start(spec("api", needs=["db", "cache"]))
        assert trio.current_time() == pytest.approx(7, abs=0.01)
        assert stage.waited_for("api#0")[:2] == ["db and cache, which it needs", "cache, which it needs"]


async def test_a_diamond_starts_its_two_sides_together_and_its_bottom_once(autojump_clock: MockClock) -> None:
    stage = Stage(
        left=FakeBackend(listens_after=2), right=FakeBackend(listens_after=3), db=FakeBackend(listens_after=1)
    )
    async with staged(stage) as sup:
        for name in ("left", "right"):
            sup.define(spec(name, needs=["db"]))
        sup.define(DB)
        await sup.start(spec("top", needs=["left", "right"]))
        assert stage.keys(Phase.READY) == ["db#0", "left#0", "right#0", "top#0"]
        assert trio.current_time() == pytest.approx(4, abs=0.01)
        assert len(stage.of["db"]) == 1


async def test_any_ready_replica_meets_a_need(autojump_clock: MockClock) -> None:
    stage = Stage(**{"db#0": FakeBackend(listens_after=20), "db#1": FakeBackend(listens_after=2)})
    async with staged(stage) as sup:
        sup.define(DB, replicas=2)
        await sup.start(API)
        assert trio.current_time() == pytest.approx(2, abs=0.01)
        assert phases(sup) == {"api#0": Phase.READY, "db#0": Phase.STARTING, "db#1": Phase.READY}
        await until(sup, "db#0", Phase.READY)


async def test_a_need_can_be_a_key_or_an_alias(autojump_clock: MockClock) -> None:
    stage = Stage(db=FakeBackend(listens_after=2))
    async with staged(stage) as sup:
        sup.define(attrs.evolve(DB, aliases=["postgres"]), replicas=3)
        await sup.start(spec("one", needs=["db#1"]))
        assert set(phases(sup)) == {"db#1", "one#0"}
        await sup.start(spec("two", needs=["postgres"]))
        assert set(phases(sup)) == {"db#1", "one#0", "two#0"}


async def test_one_out_of_rotation_does_not_meet_a_need(autojump_clock: MockClock) -> None:
    flaky = attrs.evolve(DB, readiness=Readiness(period=1, failure_threshold=1))
    stage = Stage()
    async with staged(stage) as sup, trio.open_nursery() as nursery:
        await sup.start(flaky)
        (db,) = stage.of["db"]
        db.behaviour = attrs.evolve(db.behaviour, healthy_after=10)
        await until(sup, "db#0", Phase.UNREADY)
        nursery.start_soon(sup.start, API)
        await until(sup, "api#0", Phase.READY)
        assert stage.at("api#0", Phase.STARTING)[0] >= 10


async def test_a_needed_one_that_dies_while_it_is_waited_for_fails_the_start_by_name(autojump_clock: MockClock) -> None:
    stage = Stage(db=FakeBackend(exits_after=2, exit_code=3, listens_after=99))
    async with staged(stage) as sup:
        sup.define(DB)
        with pytest.raises(trio_sup.NeedFailed, match=r"api#0 needs db, which has ended: exit code 3") as caught:
            await sup.start(API)
        assert caught.value.needed == "db"
        assert phases(sup) == {}


async def test_a_needed_one_is_waited_for_through_its_restarts(autojump_clock: MockClock) -> None:
    dies = FakeBackend(exits_after=1, exit_code=1, listens_after=99)
    stage = Stage(db=[dies, dies, FakeBackend()])
    async with staged(stage, restart_policy=AT_ONCE) as sup:
        sup.define(DB)
        await sup.start(API)
        assert len(stage.of["db"]) == 3


async def test_one_that_was_given_up_fails_the_start_by_name(autojump_clock: MockClock) -> None:
    stage = Stage(db=FakeBackend(exits_after=1, exit_code=1))
    async with staged(stage, restart_policy=AT_ONCE) as sup:
        await sup.start(DB)
        await until(sup, "db#0", Phase.GIVEN_UP)
        with pytest.raises(
            trio_sup.NeedFailed, match=r"needs db#0, which was given up: more than 3 restarts"
        ) as caught:
            await sup.start(attrs.evolve(API, restart_policy="never"))
        assert caught.value.needed == "db#0"


async def test_one_that_is_given_up_while_it_is_waited_for_fails_the_start_by_name(autojump_clock: MockClock) -> None:
    stage = Stage(db=FakeBackend(exits_after=1, exit_code=1, listens_after=99))
    async with staged(stage, restart_policy=AT_ONCE) as sup:
        sup.define(DB)
        with pytest.raises(trio_sup.NeedFailed, match="needs db#0, which was given up"):
            await sup.start(API)
        assert phases(sup) == {"db#0": Phase.GIVEN_UP}


async def test_a_replica_that_can_still_be_started_takes_the_place_of_one_that_was_given_up(
    autojump_clock: MockClock,
) -> None:
    crashes = FakeBackend(exits_after=1, exit_code=1)
    stage = Stage(**{"db#0": crashes})
    async with staged(stage, restart_policy=AT_ONCE) as sup:
        sup.define(DB, replicas=2)
        await sup.start("db#0")
        await until(sup, "db#0", Phase.GIVEN_UP)
        await sup.start(API)
        assert phases(sup) == {"api#0": Phase.READY, "db#0": Phase.GIVEN_UP, "db#1": Phase.READY}


async def test_the_needs_of_what_is_needed_are_named_when_they_fail(autojump_clock: MockClock) -> None:
    stage = Stage(db=FakeBackend(exits_after=1, exit_code=4, listens_after=99))
    async with staged(stage) as sup:
        sup.define(DB)
        sup.define(API)
        with pytest.raises(
            trio_sup.NeedFailed, match=r"web#0 needs api, which has ended: it needs db, which has ended: exit code 4"
        ):
            await sup.start(WEB)


async def test_cancelling_the_start_ends_what_was_started_for_it_alone(autojump_clock: MockClock) -> None:
    stage = Stage(db=FakeBackend(listens_after=20))
    async with staged(stage) as sup:
        sup.define(DB)
        sup.define(API)
        with trio.move_on_after(3):
            await sup.start(WEB)
        await wait_all_tasks_blocked()
        assert phases(sup) == {}
        assert sup.exit_reports("db#0")[0].cause is Cause.ABANDONED


async def test_what_is_waited_for_goes_on_when_its_own_caller_leaves(autojump_clock: MockClock) -> None:
    stage = Stage(db=FakeBackend(listens_after=20))
    async with staged(stage) as sup, trio.open_nursery() as nursery:
        nursery.start_soon(sup.start, API)
        with trio.move_on_after(3):
            await sup.start(DB)
        await until(sup, "api#0", Phase.READY)
        assert len(stage.of["db"]) == 1


async def test_stopping_a_waiting_one_ends_what_was_started_for_it_alone(autojump_clock: MockClock) -> None:
    stage = Stage(db=FakeBackend(listens_after=20))
    async with staged(stage) as sup, trio.open_nursery() as nursery:
        sup.define(DB)
        nursery.start_soon(fails, sup.start(API), trio_sup.StoppedDuringStartup, "asked to stop")
        await until(sup, "db#0", Phase.STARTING)
        (report,) = await sup.stop("api")
        assert report.gone
        await until(sup, "db#0", Phase.GONE)


async def test_a_circle_is_refused_and_shown(autojump_clock: MockClock) -> None:
    async with staged(Stage()) as sup:
        sup.define(spec("a", needs=["b"]))
        sup.define(spec("b", needs=["c"]))
        with pytest.raises(trio_sup.DependencyCycle, match=r"c#0 -> a#0 -> b#0 -> c#0") as caught:
            sup.define(spec("c", needs=["a"]))
        assert caught.value.cycle == ("c#0", "a#0", "b#0", "c#0")
        with pytest.raises(trio_sup.DependencyCycle, match=r"c#0 -> a#0 -> b#0 -> c#0"):
            await sup.start(spec("c", needs=["a"]))
        with pytest.raises(trio_sup.DependencyCycle, match=r"d#0 -> d#0"):
            sup.define(spec("d", needs=["d"]))
        assert sup.backends == ()
        sup.define(spec("c"))
        await sup.start("a")


async def test_a_circle_that_only_later_starts_would_close_is_refused(autojump_clock: MockClock) -> None:
    async with staged(Stage()) as sup:
        await sup.start(spec("b"))
        sup.define(spec("b", needs=["a"]))  # runs without needs, and would be started with them next
        with pytest.raises(trio_sup.DependencyCycle, match=r"a#0 -> b#0 -> a#0"):
            sup.define(spec("a", needs=["b"]))


# ---- stopping


async def test_dependents_are_stopped_first_level_by_level(autojump_clock: MockClock) -> None:
    stage = Stage(db=SLOW_STOP, api=SLOW_STOP, web=SLOW_STOP, other=SLOW_STOP)
    async with staged(stage) as sup:
        for each in (DB, API, WEB, spec("other")):
            await sup.start(each)
        began = trio.current_time()
        (report,) = await sup.stop("db")
        assert report.gone
        assert report.key.model == "db"
        assert phases(sup) == {"other#0": Phase.READY}
        assert stage.moves(Phase.STOPPING, Phase.GONE) == [
            f"{key} {move}" for key in ("web#0", "api#0", "db#0") for move in ("stopping", "gone")
        ]
        assert trio.current_time() - began == pytest.approx(9, abs=0.1)
        causes = [sup.exit_reports(f"{name}#0")[0].cause for name in ("web", "api", "db")]
        assert causes == [Cause.NEEDED_STOPPED, Cause.NEEDED_STOPPED, Cause.ASKED]


async def test_a_stop_can_refuse_while_it_is_needed(autojump_clock: MockClock) -> None:
    async with staged(Stage()) as sup:
        for each in (DB, API, WEB):
            await sup.start(each)
        with pytest.raises(trio_sup.StillNeeded, match="db#0 is still needed by api#0, web#0") as caught:
            await sup.stop("db", dependents="refuse")
        assert [str(key) for key in caught.value.dependents] == ["api#0", "web#0"]
        assert set(phases(sup).values()) == {Phase.READY}
        await sup.stop("web", dependents="refuse")
        await sup.stop("api", dependents="refuse")
        await sup.stop("db", dependents="refuse")
        assert sup.backends == ()


async def test_a_dependent_that_is_on_its_way_out_does_not_make_a_stop_refuse(autojump_clock: MockClock) -> None:
    stage = Stage(api=SLOW_STOP)
    async with staged(stage) as sup, trio.open_nursery() as nursery:
        for each in (DB, API):
            await sup.start(each)
        nursery.start_soon(sup.stop, "api")
        await until(sup, "api#0", Phase.STOPPING)
        await sup.stop("db", dependents="refuse")
        assert stage.moves(Phase.GONE) == ["api#0 gone", "db#0 gone"]


async def test_force_kills_the_dependents_too_at_once(autojump_clock: MockClock) -> None:
    stubborn = FakeBackend(stops_after=1e9)
    stage = Stage(db=stubborn, api=stubborn, web=stubborn)
    async with staged(stage) as sup:
        for each in (DB, API, WEB):
            await sup.start(each)
        began = trio.current_time()
        await sup.stop("db", force=True)
        await wait_all_tasks_blocked()
        assert trio.current_time() - began < 0.1
        assert sup.backends == ()


async def test_force_cuts_short_the_dependents_of_a_stop_that_is_under_way(autojump_clock: MockClock) -> None:
    stubborn = FakeBackend(stops_after=1e9)
    stage = Stage(db=stubborn, api=stubborn)
    async with staged(stage) as sup, trio.open_nursery() as nursery:
        for each in (DB, API):
            await sup.start(each)
        nursery.start_soon(sup.stop, "db")
        await until(sup, "api#0", Phase.STOPPING)
        assert phases(sup)["db#0"] is Phase.READY
        began = trio.current_time()
        await sup.stop("db", force=True)
        await wait_all_tasks_blocked()
        assert trio.current_time() - began < 0.1
        assert sup.backends == ()


@pytest.mark.parametrize("first", ["api", "db"])
async def test_two_stops_at_once_keep_the_order(first: str, autojump_clock: MockClock) -> None:
    stage = Stage(db=SLOW_STOP, api=SLOW_STOP)
    async with staged(stage) as sup, trio.open_nursery() as nursery:
        for each in (DB, API):
            await sup.start(each)
        nursery.start_soon(sup.stop, first)
        await until(sup, "api#0", Phase.STOPPING)
        nursery.start_soon(sup.stop, "db")
        nursery.start_soon(sup.stop, "api")
        await until(sup, "db#0", Phase.STOPPING)
        assert "api#0" not in phases(sup)


async def test_stop_all_and_the_end_of_the_block_keep_the_order(autojump_clock: MockClock) -> None:
    for by_hand in (True, False):
        stage = Stage(db=SLOW_STOP, api=SLOW_STOP, web=SLOW_STOP)
        async with staged(stage) as sup:
            for each in (DB, API, WEB):
                await sup.start(each)
            if by_hand:
                assert len(await sup.stop_all()) == 3
        assert stage.keys(Phase.GONE) == ["web#0", "api#0", "db#0"]


async def test_the_shutdown_stays_within_its_budget_whatever_needs_what(autojump_clock: MockClock) -> None:
    names = [f"s{n}" for n in range(6)]
    stage = Stage(**dict.fromkeys(names, FakeBackend(stops_after=14)))
    async with staged(stage, shutdown_timeout=20) as sup:
        for n, name in enumerate(names):
            await sup.start(spec(name, needs=names[max(0, n - 1) : n]))
        began = trio.current_time()
    assert trio.current_time() - began <= 20


async def test_the_order_is_kept_when_the_stopping_caller_is_cancelled(autojump_clock: MockClock) -> None:
    stage = Stage(db=SLOW_STOP, api=SLOW_STOP)
    async with staged(stage) as sup:
        for each in (DB, API):
            await sup.start(each)
        with trio.move_on_after(1):
            await sup.stop("db")
        assert phases(sup) == {"api#0": Phase.STOPPING, "db#0": Phase.READY}
        await trio.sleep(10)
        assert sup.backends == ()
        assert stage.keys(Phase.GONE) == ["api#0", "db#0"]


async def test_one_that_waits_is_stopped_with_what_it_waits_for(autojump_clock: MockClock) -> None:
    stage = Stage(db=FakeBackend(listens_after=20))
    async with staged(stage) as sup, trio.open_nursery() as nursery:
        sup.define(DB)
        nursery.start_soon(fails, sup.start(API), trio_sup.StoppedDuringStartup, "what it needs is stopped")
        await until(sup, "db#0", Phase.STARTING)
        await sup.stop("db")
        assert sup.backends == ()
        assert sup.exit_reports("db#0")[0].cause is Cause.ASKED


async def test_a_start_of_a_dependent_while_the_needed_one_stops_starts_that_anew(autojump_clock: MockClock) -> None:
    stage = Stage(db=SLOW_STOP)
    async with staged(stage) as sup, trio.open_nursery() as nursery:
        await sup.start(DB)
        nursery.start_soon(sup.stop, "db")
        await until(sup, "db#0", Phase.STOPPING)
        await sup.start(API)
        assert phases(sup) == {"api#0": Phase.READY, "db#0": Phase.READY}
        assert len(stage.of["db"]) == 2
        assert stage.keys(Phase.READY) == ["db#0", "db#0", "api#0"]


async def test_a_start_of_a_dependent_that_is_stopped_first_waits_for_the_whole_round(
    autojump_clock: MockClock,
) -> None:
    stage = Stage(db=SLOW_STOP, api=SLOW_STOP)
    async with staged(stage) as sup, trio.open_nursery() as nursery:
        for each in (DB, API):
            await sup.start(each)
        nursery.start_soon(sup.stop, "db")
        await until(sup, "api#0", Phase.STOPPING)
        await sup.start("api")  # the needed one is ready still, but on its way out
        assert stage.moves(Phase.READY, Phase.STOPPING)[2:] == [
            "api#0 stopping",
            "db#0 stopping",
            "db#0 ready",
            "api#0 ready",
        ]


async def test_another_ready_replica_spares_the_dependents(autojump_clock: MockClock) -> None:
    async with staged(Stage()) as sup:
        sup.define(DB, replicas=2)
        await sup.start(API)
        await sup.stop("db#0", dependents="refuse")
        assert phases(sup) == {"api#0": Phase.READY, "db#1": Phase.READY}
        await sup.stop("db#1")
        assert sup.backends == ()


async def test_a_replica_that_is_not_ready_does_not_spare_a_running_dependent(autojump_clock: MockClock) -> None:
    stage = Stage(**{"db#1": FakeBackend(listens_after=20)})
    async with staged(stage) as sup, trio.open_nursery() as nursery:
        sup.define(DB, replicas=2)
        await sup.start("db#0")
        await sup.start(API)
        nursery.start_soon(sup.start, "db#1")
        await until(sup, "db#1", Phase.STARTING)
        await sup.stop("db#0")
        assert phases(sup) == {"db#1": Phase.STARTING}


async def test_both_replicas_stopped_at_once_take_the_dependent_first(autojump_clock: MockClock) -> None:
    stage = Stage(api=SLOW_STOP)
    async with staged(stage) as sup:
        sup.define(DB, replicas=2)
        await sup.start(API)
        await sup.stop("db")
        assert stage.keys(Phase.GONE)[0] == "api#0"
        assert sup.backends == ()


async def test_survivors_of_a_dependent_do_not_keep_the_stop_from_ending(autojump_clock: MockClock) -> None:
    stage = Stage(api=FakeBackend(stops_after=1e9, survives_kill=True))
    async with staged(stage) as sup:
        for each in (DB, attrs.evolve(API, grace=1)):
            await sup.start(each)
        (report,) = await sup.stop("db")
        assert report.gone
        assert phases(sup) == {"api#0": Phase.STOP_FAILED}
        stage.of["api"][0].release()


async def test_a_stop_that_waits_for_dependents_is_answered_although_the_resting_one_is_started_anew(
    autojump_clock: MockClock,
) -> None:
    stage = Stage(db=[FakeBackend(exits_after=1, exit_code=1), FakeBackend()], api=SLOW_STOP)
    policy = {"strategy": "on-failure", "delay": 30}
    async with staged(stage) as sup, trio.open_nursery() as nursery:
        await sup.start(attrs.evolve(DB, restart_policy=policy))
        await sup.start(API)
        await until(sup, "db#0", Phase.BACKOFF)
        nursery.start_soon(sup.stop, "db")
        await until(sup, "api#0", Phase.STOPPING)
        await sup.start("db")
        assert trio.current_time() == pytest.approx(4, abs=0.1)
    assert stage.keys(Phase.READY) == ["db#0", "api#0", "db#0"]


# ---- failing


async def test_dependents_of_one_that_fails_go_on(autojump_clock: MockClock) -> None:
    stage = Stage(db=FakeBackend(exits_after=5, exit_code=1))
    async with staged(stage) as sup:
        for each in (DB, API):
            await sup.start(each)
        await until(sup, "db#0", Phase.GONE)
        await trio.sleep(100)
        assert phases(sup) == {"api#0": Phase.READY}


async def test_bound_ones_end_with_it_and_are_restarted_after_it_chain_and_all(autojump_clock: MockClock) -> None:
    stage = Stage(db=[FakeBackend(exits_after=5, exit_code=1), FakeBackend(listens_after=2)], web=SLOW_STOP)
    policy = {"strategy": "on-failure", "delay": 10, "jitter": 0}
    async with staged(stage) as sup:
        await sup.start(attrs.evolve(DB, restart_policy=policy))
        await sup.start(BOUND)
        await sup.start(attrs.evolve(WEB, bind=True))
        await until(sup, "db#0", Phase.STOPPING)
        await wait_all_tasks_blocked()
        assert phases(sup) == {"api#0": Phase.WAITING, "db#0": Phase.BACKOFF, "web#0": Phase.STOPPING}
        await until(sup, "web#0", Phase.READY)
        assert stage.keys(Phase.READY)[3:] == ["db#0", "api#0", "web#0"]
        assert trio.current_time() == pytest.approx(17, abs=0.5)
        assert [sup.exit_reports(f"{name}#0")[0].cause for name in ("api", "web")] == [Cause.NEEDED_FAILED] * 2
        assert all(backend.restarts == 0 for backend in sup.backends if backend.name != "db")


async def test_a_bound_one_stays_while_another_replica_serves_it(autojump_clock: MockClock) -> None:
    stage = Stage(**{"db#0": FakeBackend(exits_after=5), "db#1": FakeBackend(exits_after=8)})
    async with staged(stage) as sup:
        sup.define(DB, replicas=2)
        await sup.start(BOUND)
        await until(sup, "db#0", Phase.GONE)
        assert phases(sup) == {"api#0": Phase.READY, "db#1": Phase.READY}
        await until(sup, "api#0", Phase.STOPPING)
        assert trio.current_time() == pytest.approx(8)


async def test_a_bound_one_is_given_up_with_what_it_needs(autojump_clock: MockClock) -> None:
    stage = Stage(db=FakeBackend(exits_after=5, exit_code=1))
    async with staged(stage) as sup:
        await sup.start(attrs.evolve(DB, restart_policy=AT_ONCE))
        await sup.start(BOUND)
        await until(sup, "api#0", Phase.GIVEN_UP)
        (api, db) = sup.backends
        assert db.phase is Phase.GIVEN_UP
        assert api.why is not None
        assert "it needs db#0, which was given up: more than 3 restarts" in api.why


@pytest.mark.parametrize("api", [FakeBackend(), SLOW_STOP])
async def test_a_bound_one_does_not_restart_what_is_not_to_be_restarted(
    api: FakeBackend, autojump_clock: MockClock
) -> None:
    stage = Stage(db=FakeBackend(exits_after=5, exit_code=1), api=api)
    async with staged(stage) as sup:
        await sup.start(DB)
        await sup.start(BOUND)
        await until(sup, "api#0", Phase.GIVEN_UP)
        await trio.sleep(100)
        assert len(stage.of["db"]) == 1
        assert phases(sup) == {"api#0": Phase.GIVEN_UP}
        await sup.start("api")  # an explicit start does
        assert phases(sup) == {"api#0": Phase.READY, "db#0": Phase.READY}


async def test_what_fails_before_a_bound_one_was_launched_is_waited_for_again(autojump_clock: MockClock) -> None:
    stage = Stage(room=FakeBackend(stops_after=6), db=[FakeBackend(exits_after=5, exit_code=1), FakeBackend()])
    policy = {"strategy": "on-failure", "delay": 10, "jitter": 0}
    async with staged(stage, max_running=2) as sup:
        await sup.start(spec("room"))
        await sup.start(attrs.evolve(DB, restart_policy=policy, pinned=True))
        await sup.start(BOUND)  # waits 6 s for room, and the needed one fails meanwhile
        assert stage.at("api#0", Phase.STARTING) == [pytest.approx(15, abs=0.5)]
        assert phases(sup) == {"api#0": Phase.READY, "db#0": Phase.READY}


async def test_what_fails_while_a_bound_one_waits_for_its_install_lock_is_waited_for_again(
    autojump_clock: MockClock,
) -> None:
    opened = trio.Event()

    class Gate:
        @asynccontextmanager
        async def hold(self, backend: str, *, shared: bool) -> AsyncIterator[None]:
            if backend == "api":
                await opened.wait()
            yield

    stage = Stage()
    async with staged(stage, install_lock=Gate()) as sup, trio.open_nursery() as nursery:
        await sup.start(attrs.evolve(DB, restart_policy=GivesUp(1, delay=10)))
        nursery.start_soon(sup.start, BOUND)
        await wait_all_tasks_blocked()
        assert stage.waited_for("api#0") == ["the install lock of api"]
        stage.of["db"][0].exit(trio_sup.ExitStatus(code=1))
        opened.set()
        await until(sup, "api#0", Phase.READY)
        assert stage.at("api#0", Phase.STARTING) == stage.at("db#0", Phase.READY)[1:]


async def test_a_dependent_that_restarts_by_itself_starts_what_it_needs(autojump_clock: MockClock) -> None:
    stage = Stage(
        db=[FakeBackend(exits_after=5, exit_code=1), FakeBackend()], api=[FakeBackend(exits_after=9), FakeBackend()]
    )
    async with staged(stage) as sup:
        await sup.start(DB)
        await sup.start(attrs.evolve(API, restart_policy={"strategy": "always", "delay": 1}))
        await until(sup, "api#0", Phase.BACKOFF)
        assert "db#0" not in phases(sup)
        await until(sup, "api#0", Phase.READY)
        assert phases(sup) == {"api#0": Phase.READY, "db#0": Phase.READY}


# ---- many


async def test_many_dependents_do_not_wake_each_other(autojump_clock: MockClock) -> None:
    stage = Stage(db=FakeBackend(listens_after=5))
    steps = 0

    class Counts(trio.abc.Instrument):
        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            nonlocal steps
            steps += 1

    async with staged(stage) as sup:
        sup.define(DB)
        trio.lowlevel.add_instrument(Counts())
        async with trio.open_nursery() as nursery:
            for n in range(100):
                nursery.start_soon(sup.start, spec(f"api{n}", needs=["db"]))
        assert len(stage.keys(Phase.READY)) == 101
        assert steps < 100 * 100
