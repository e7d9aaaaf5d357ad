"""Groups: who is restarted with a member that fails, in which order, and who is given up with it."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_sup
from tests.engine.staging import GivesUp, Stage, again, fails, phases, spec, staged, until
from trio_sup import BackendSpec, Cause, Phase
from trio_sup._values import GroupRestart
from trio_sup.testing import FakeBackend

AFTER_TEN = {"strategy": "on-failure", "delay": 10, "jitter": 0}
SLOW_STOP = FakeBackend(stops_after=3)


def member(name: str, **fields: Any) -> BackendSpec:
    return spec(name, group="line", **{"restart_policy": AFTER_TEN, **fields})


def line(how: GroupRestart) -> dict[str, Any]:
    return {"groups": {"line": how}}


A, B, C = (member(name) for name in "abc")
ALONE = spec("alone")


async def started(sup: trio_sup.Supervisor, *specs: BackendSpec) -> None:
    for each in specs:
        await sup.start(each)


def causes(sup: trio_sup.Supervisor, key: str) -> list[Cause]:
    return [report.cause for report in sup.exit_reports(key)]


# ---- who is restarted, and when


async def test_one_for_one_restarts_nobody_else(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with staged(stage, **line("one-for-one")) as sup:
        await started(sup, A, B, C)
        stage.of["b"][0].exit(trio_sup.ExitStatus(code=1))
        await until(sup, "b#0", Phase.BACKOFF)
        await until(sup, "b#0", Phase.READY)
        assert [len(stage.of[name]) for name in "abc"] == [1, 2, 1]


async def test_one_for_all_restarts_all_of_them_in_order_once_all_have_ended(autojump_clock: MockClock) -> None:
    stage = Stage(a=[SLOW_STOP, FakeBackend(listens_after=2)], c=[SLOW_STOP, FakeBackend(listens_after=4)])
    async with staged(stage, **line("one-for-all")) as sup:
        await started(sup, A, B, C, ALONE)
        failed_at = trio.current_time()
        stage.of["b"][0].exit(trio_sup.ExitStatus(code=1))
        await until(sup, "b#0", Phase.BACKOFF)
        await wait_all_tasks_blocked()
        assert phases(sup) == {
            "a#0": Phase.STOPPING,
            "alone#0": Phase.READY,
            "b#0": Phase.BACKOFF,
            "c#0": Phase.STOPPING,
        }
        await until(sup, "c#0", Phase.READY)
        assert stage.keys(Phase.READY)[4:] == ["a#0", "b#0", "c#0"]
        since = [at - failed_at for at in (stage.at("a#0", Phase.READY)[1], stage.at("b#0", Phase.STARTING)[1])]
        assert since == pytest.approx([5, 10], abs=0.1)  # the first one does not wait for the backoff of the second
        assert causes(sup, "a#0") == causes(sup, "c#0") == [Cause.SIBLING_FAILED]
        assert [backend.restarts for backend in sup.backends] == [0, 0, 1, 0]


async def test_one_for_all_waits_for_the_backoff_of_those_that_come_first(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with staged(stage, **line("one-for-all")) as sup:
        await started(sup, A, B)
        stage.of["a"][0].exit(trio_sup.ExitStatus(code=1))
        await until(sup, "b#0", Phase.WAITING)
        assert stage.waited_for("b#0")[-1] == "a#0 of its group"
        await until(sup, "b#0", Phase.READY)
        assert stage.moves(Phase.BACKOFF, Phase.READY)[2:] == ["a#0 backoff", "a#0 ready", "b#0 ready"]


async def test_one_for_all_starts_nobody_before_the_slowest_end(autojump_clock: MockClock) -> None:
    stage = Stage(c=FakeBackend(stops_after=12))
    async with staged(stage, **line("one-for-all")) as sup:
        await started(sup, A, B, C)
        stage.of["a"][0].exit(trio_sup.ExitStatus(code=1))
        await again(sup, "c#0", Phase.READY)
        assert stage.keys(Phase.STARTING)[3:] == ["a#0", "b#0", "c#0"]
        assert stage.at("a#0", Phase.STARTING)[1] == pytest.approx(12, abs=0.1)
        assert "c#0 of its group" in stage.waited_for("a#0")
        assert stage.keys(Phase.READY)[3:] == ["a#0", "b#0", "c#0"]


async def test_rest_for_one_restarts_those_after_it(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with staged(stage, **line("rest-for-one")) as sup:
        await started(sup, A, B, C)
        stage.of["b"][0].exit(trio_sup.ExitStatus(code=1))
        await again(sup, "c#0", Phase.READY)
        assert stage.keys(Phase.READY)[3:] == ["b#0", "c#0"]
        assert [len(stage.of[name]) for name in "abc"] == [1, 2, 2]


async def test_the_order_of_a_group_is_that_of_its_definitions(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with staged(stage, **line("rest-for-one")) as sup:
        for each in (A, B, C):
            sup.define(each)
        await sup.start("c")
        await sup.start("b")
        await sup.stop("b")
        await sup.start("b")  # neither this nor the order of the starts makes it the last one
        stage.of["b"][-1].exit(trio_sup.ExitStatus(code=1))
        await again(sup, "c#0", Phase.READY)
        assert stage.keys(Phase.READY)[-2:] == ["b#0", "c#0"]


async def test_replicas_are_members_too(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with staged(stage, **line("one-for-all")) as sup:
        for key in sup.define(A, replicas=3):
            await sup.start(key)
        stage.of["a"][1].exit(trio_sup.ExitStatus(code=1))
        await until(sup, "a#1", Phase.BACKOFF)
        for replica in range(3):
            await until(sup, f"a#{replica}", Phase.READY)
        assert len(stage.of["a"]) == 6


async def test_one_that_is_not_restarted_leaves_the_others_alone(autojump_clock: MockClock) -> None:
    stage = Stage(a=FakeBackend(exits_after=5, exit_code=0), b=FakeBackend(exits_after=7, exit_code=1))
    async with staged(stage, **line("one-for-all")) as sup:
        await started(sup, A, member("b", restart_policy="never"), C)
        await until(sup, "a#0", Phase.GONE)  # a success, which "on-failure" leaves ended
        await until(sup, "b#0", Phase.GONE)
        await trio.sleep(100)
        assert phases(sup) == {"c#0": Phase.READY}
        assert len(stage.of["c"]) == 1


async def test_a_stop_leaves_the_group_alone(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with staged(stage, **line("one-for-all")) as sup:
        await started(sup, A, B)
        await sup.stop("a")
        assert phases(sup) == {"b#0": Phase.READY}
        assert len(stage.of["b"]) == 1


async def test_two_that_fail_at_once_are_one_restart_of_the_group(autojump_clock: MockClock) -> None:
    stage = Stage(a=[FakeBackend(exits_after=50, exit_code=1), FakeBackend()])
    async with staged(stage, **line("one-for-all")) as sup:
        await started(sup, A, B, C)
        await trio.sleep_until(stage.of["a"][0].launched_at + 50)
        stage.of["b"][0].exit(trio_sup.ExitStatus(code=1))
        await again(sup, "c#0", Phase.READY)
        assert [len(stage.of[name]) for name in "abc"] == [2, 2, 2]
        assert stage.keys(Phase.READY)[3:] == ["a#0", "b#0", "c#0"]


async def test_a_member_that_fails_again_takes_those_that_are_back_with_it(autojump_clock: MockClock) -> None:
    stage = Stage(b=[FakeBackend(), FakeBackend(exits_after=1, listens_after=9, exit_code=1), FakeBackend()])
    async with staged(stage, **line("one-for-all")) as sup:
        await started(sup, A, B, C)
        stage.of["a"][0].exit(trio_sup.ExitStatus(code=1))
        await again(sup, "c#0", Phase.READY)
        assert [len(stage.of[name]) for name in "abc"] == [3, 3, 2]


async def test_a_member_that_is_asked_to_stop_meanwhile_is_not_waited_for(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with staged(stage, **line("one-for-all")) as sup:
        await started(sup, A, B, C)
        stage.of["a"][0].exit(trio_sup.ExitStatus(code=1))
        await until(sup, "c#0", Phase.WAITING)
        await sup.stop("a")
        await until(sup, "c#0", Phase.READY)
        assert phases(sup) == {"b#0": Phase.READY, "c#0": Phase.READY}


async def test_one_that_is_stopping_when_its_group_restarts_stays_ended(autojump_clock: MockClock) -> None:
    stage = Stage(b=SLOW_STOP)
    async with staged(stage, **line("one-for-all")) as sup, trio.open_nursery() as nursery:
        await started(sup, A, B)
        nursery.start_soon(sup.stop, "b")
        await until(sup, "b#0", Phase.STOPPING)
        stage.of["a"][0].exit(trio_sup.ExitStatus(code=1))
        await until(sup, "a#0", Phase.BACKOFF)
        await until(sup, "a#0", Phase.READY)
        assert phases(sup) == {"a#0": Phase.READY}


async def test_a_member_that_was_about_to_start_waits_for_its_turn(autojump_clock: MockClock) -> None:
    stage = Stage(db=FakeBackend(listens_after=5))
    async with staged(stage, **line("one-for-all")) as sup, trio.open_nursery() as nursery:
        sup.define(A)
        sup.define(spec("db"))
        await sup.start("a")
        nursery.start_soon(sup.start, member("b", needs=["db"]))
        await until(sup, "db#0", Phase.STARTING)
        stage.of["a"][0].exit(trio_sup.ExitStatus(code=1))
        await until(sup, "b#0", Phase.READY)
        assert stage.keys(Phase.READY) == ["a#0", "db#0", "a#0", "b#0"]
        assert len(stage.of["b"]) == 1


async def test_a_start_of_one_that_waits_for_its_group_joins_that(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with staged(stage, **line("one-for-all")) as sup:
        await started(sup, A, B)
        stage.of["a"][0].exit(trio_sup.ExitStatus(code=1))
        await until(sup, "b#0", Phase.WAITING)
        await sup.start(B)
        assert stage.keys(Phase.READY)[2:] == ["a#0", "b#0"]
        assert len(stage.of["b"]) == 2


async def test_an_explicit_start_of_the_failed_one_spares_the_group_the_wait(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with staged(stage, **line("one-for-all")) as sup:
        await started(sup, A, B)
        stage.of["a"][0].exit(trio_sup.ExitStatus(code=1))
        await until(sup, "b#0", Phase.WAITING)
        await sup.start("a")
        await until(sup, "b#0", Phase.READY)
        assert trio.current_time() < 1


async def test_the_shutdown_does_not_wait_for_a_restart_of_a_group(autojump_clock: MockClock) -> None:
    stage = Stage(b=SLOW_STOP)
    async with staged(stage, **line("one-for-all")) as sup:
        await started(sup, A, B)
        stage.of["a"][0].exit(trio_sup.ExitStatus(code=1))
        await until(sup, "b#0", Phase.STOPPING)
    assert trio.current_time() == pytest.approx(3, abs=0.1)


# ---- giving up


async def test_a_member_that_is_given_up_takes_those_that_would_be_restarted_with_it(
    autojump_clock: MockClock,
) -> None:
    stage = Stage(b=FakeBackend(exits_after=1, exit_code=1))
    async with staged(stage, **line("one-for-all")) as sup:
        await started(sup, A, member("b", restart_policy=GivesUp()))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails, sup.start(member("c", needs=["never"])), trio_sup.GivenUp, "b#0 of its group")
            await until(sup, "a#0", Phase.GIVEN_UP)
        assert set(phases(sup).values()) == {Phase.GIVEN_UP}
        whys = {str(backend.key): backend.why for backend in sup.backends}
        assert whys["b#0"] == "enough"
        assert whys["a#0"] == whys["c#0"] == "b#0 of its group was given up: enough"
        await sup.start("a")  # each is started again by itself
        assert phases(sup)["b#0"] is Phase.GIVEN_UP


async def test_rest_for_one_gives_up_only_those_after_it(autojump_clock: MockClock) -> None:
    stage = Stage(b=FakeBackend(exits_after=1, exit_code=1))
    async with staged(stage, **line("rest-for-one")) as sup:
        await started(sup, A, member("b", restart_policy=GivesUp()), C)
        await until(sup, "c#0", Phase.GIVEN_UP)
        assert phases(sup) == {"a#0": Phase.READY, "b#0": Phase.GIVEN_UP, "c#0": Phase.GIVEN_UP}


async def test_one_that_rests_is_given_up_with_its_group(autojump_clock: MockClock) -> None:
    stage = Stage(b=FakeBackend(exits_after=5, exit_code=1))
    async with staged(stage, **line("one-for-all")) as sup:
        await started(sup, member("a", restart_policy=GivesUp(9, 1000)), member("b", restart_policy=GivesUp()))
        stage.of["a"][0].exit(trio_sup.ExitStatus(code=1))
        await until(sup, "a#0", Phase.BACKOFF)
        await sup.start("b")  # not before its turn
        assert trio.current_time() == pytest.approx(1000, abs=1)
        stage.of["a"][1].exit(trio_sup.ExitStatus(code=1))
        stage.of["b"][1].exit(trio_sup.ExitStatus(code=1))
        await until(sup, "a#0", Phase.GIVEN_UP)
        assert trio.current_time() == pytest.approx(1000, abs=1)


async def test_a_lease_does_not_revive_one_that_is_about_to_be_given_up(autojump_clock: MockClock) -> None:
    stage = Stage(a=SLOW_STOP, b=FakeBackend(exits_after=1, exit_code=1))
    async with staged(stage, **line("one-for-all")) as sup:
        await started(sup, member("b", restart_policy=GivesUp()), A)
        await until(sup, "b#0", Phase.GIVEN_UP)
        await until(sup, "a#0", Phase.STOPPING)
        with pytest.raises(trio_sup.GivenUp, match="b#0 of its group"):
            async with sup.use("a"):
                pass
        assert phases(sup) == {"a#0": Phase.GIVEN_UP, "b#0": Phase.GIVEN_UP}


async def test_a_start_that_is_queued_already_is_not_given_up_with_the_group(autojump_clock: MockClock) -> None:
    stage = Stage(a=SLOW_STOP)
    async with staged(stage, **line("one-for-all")) as sup, trio.open_nursery() as nursery:
        await started(sup, A, member("b", restart_policy=GivesUp()))
        nursery.start_soon(partial(sup.start, member("a", grace=20), replace=True))
        await until(sup, "a#0", Phase.STOPPING)
        stage.of["b"][0].exit(trio_sup.ExitStatus(code=1))
        await until(sup, "b#0", Phase.GIVEN_UP)
        await until(sup, "a#0", Phase.READY)
        stage.of["a"][-1].exit(trio_sup.ExitStatus(code=1))
        await until(sup, "a#0", Phase.BACKOFF)  # nor is it later on


# ---- needs inside a group


@pytest.mark.parametrize("how", ["one-for-all", "rest-for-one"])
@pytest.mark.parametrize("failing", ["x", "y", "z"])
async def test_needs_inside_a_group_do_not_deadlock(failing: str, how: GroupRestart, autojump_clock: MockClock) -> None:
    stage = Stage()
    async with staged(stage, **line(how)) as sup:
        x, y, z = member("x", needs=["z"]), member("y"), member("z")
        for each in (x, y, z):
            sup.define(each)
        await started(sup, x, y)
        before = len(stage.children)
        stage.of[failing][0].exit(trio_sup.ExitStatus(code=1))
        await until(sup, f"{failing}#0", Phase.BACKOFF)
        await trio.sleep(100)
        assert set(phases(sup).values()) == {Phase.READY}
        restarted = stage.keys(Phase.READY)[3:]
        order = ["z#0", "x#0", "y#0"]  # as defined, but each after what it needs
        expected = order if how == "one-for-all" else order[order.index(f"{failing}#0") :]
        assert restarted == expected
        assert len(stage.children) == before + len(expected)


async def test_needs_by_way_of_an_outsider_do_not_deadlock(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with staged(stage, **line("one-for-all")) as sup:
        for each in (member("x", needs=["outside"]), member("y"), member("z"), spec("outside", needs=["z"], bind=True)):
            sup.define(each)
        await sup.start("x")
        await sup.start("y")
        stage.of["y"][0].exit(trio_sup.ExitStatus(code=1))
        await until(sup, "y#0", Phase.BACKOFF)
        await trio.sleep(100)
        assert set(phases(sup).values()) == {Phase.READY}
        assert stage.keys(Phase.READY)[4:] == ["z#0", "outside#0", "x#0", "y#0"]


async def test_a_group_ends_those_that_need_before_the_needed(autojump_clock: MockClock) -> None:
    stage = Stage(api=FakeBackend(stops_after=15))
    async with staged(stage, **line("one-for-all")) as sup:
        await started(sup, member("db"), member("api", needs=["db"]), A)
        failed_at = trio.current_time()
        stage.of["a"][0].exit(trio_sup.ExitStatus(code=1))
        await until(sup, "a#0", Phase.BACKOFF)
        await wait_all_tasks_blocked()
        assert phases(sup) == {"a#0": Phase.BACKOFF, "api#0": Phase.STOPPING, "db#0": Phase.READY}
        await until(sup, "a#0", Phase.READY)
        assert stage.moves(Phase.STOPPING)[1:] == ["api#0 stopping", "db#0 stopping"]
        assert stage.keys(Phase.READY)[3:] == ["db#0", "api#0", "a#0"]
        assert stage.at("db#0", Phase.STARTING)[1] - failed_at == pytest.approx(15, abs=0.1)


async def test_a_start_of_one_that_is_about_to_end_with_its_group_waits_for_its_return(
    autojump_clock: MockClock,
) -> None:
    stage = Stage(api=SLOW_STOP)
    async with staged(stage, **line("one-for-all")) as sup:
        await started(sup, member("db"), member("api", needs=["db"]), A)
        stage.of["a"][0].exit(trio_sup.ExitStatus(code=1))
        await until(sup, "api#0", Phase.STOPPING)
        assert phases(sup)["db#0"] is Phase.READY
        async with sup.use("db") as used:
            assert used.generation > 3
        backend = await sup.start("api")
        assert backend.phase is Phase.READY


async def test_bound_outsiders_return_after_a_member_that_was_restarted_with_its_group(
    autojump_clock: MockClock,
) -> None:
    stage = Stage()
    async with staged(stage, **line("one-for-all")) as sup:
        await started(sup, A, B, spec("web", needs=["b"], bind=True), spec("loose", needs=["b"]))
        stage.of["a"][0].exit(trio_sup.ExitStatus(code=1))
        await until(sup, "web#0", Phase.WAITING)
        await until(sup, "web#0", Phase.READY)
        assert stage.keys(Phase.READY)[4:] == ["a#0", "b#0", "web#0"]
        assert len(stage.of["loose"]) == 1


# ---- misuse


async def test_a_group_nobody_has_heard_of_is_refused(autojump_clock: MockClock) -> None:
    async with staged(Stage(), groups={"lime": "one-for-all"}) as sup:
        with pytest.raises(trio_sup.InvalidValue, match=r"group: no such group .* known are lime"):
            await sup.start(A)
        with pytest.raises(trio_sup.InvalidValue, match="group: no such group"):
            sup.define(A)
    async with staged(Stage()) as sup:
        with pytest.raises(trio_sup.InvalidValue, match=r"group: no such group .*; it has none"):
            sup.define(A)


async def test_a_way_to_restart_nobody_has_heard_of_is_refused() -> None:
    with pytest.raises(trio_sup.InvalidValue, match="groups: line: expected one of 'one-for-one'"):
        async with trio_sup.open_supervisor(groups={"line": "all"}):  # type: ignore[dict-item]
            pass
