"""What is defined: listed whether it runs or not, and forgotten when it is told so; on a virtual clock."""

from __future__ import annotations

from functools import partial

import attrs
import pytest
import trio
from trio.testing import MockClock

import trio_sup
from tests.engine.staging import Stage, again, phases, spec, staged, until
from trio_sup import Phase, ProcessKey
from trio_sup.testing import FakeBackend

CHAT = spec("chat")
SLOW_STOP = FakeBackend(stops_after=3)


def defined(sup: trio_sup.Supervisor) -> dict[str, Phase]:
    return {str(backend.key): backend.phase for backend in sup.defined}


async def test_what_was_never_started_is_listed(autojump_clock: MockClock) -> None:
    async with staged(Stage()) as sup:
        sup.define(spec("embed"), replicas=2)
        await sup.start(CHAT)
        assert defined(sup) == {"chat#0": Phase.READY, "embed#0": Phase.GONE, "embed#1": Phase.GONE}
        assert sup.defined[0] == sup.backends[0]
        embed = sup.defined[1]
        assert (embed.spec, embed.generation, embed.pid, embed.why) == (spec("embed"), 0, None, None)


async def test_what_is_gone_stays_listed_with_how_it_ended(autojump_clock: MockClock) -> None:
    async with staged(Stage()) as sup:
        started = await sup.start(CHAT)
        await sup.stop("chat", reason="for the night")
        assert sup.backends == ()
        (backend,) = sup.defined
        assert (backend.phase, backend.generation) == (Phase.GONE, started.generation)
        assert backend.why == str(sup.exit_reports("chat#0")[-1])
        assert "for the night" in backend.why


async def test_what_was_undefined_is_ended_and_means_nothing_any_more(autojump_clock: MockClock) -> None:
    async with staged(Stage()) as sup:
        await sup.start(spec("talker", aliases=["gpt"]), model="chat")
        (report,) = await sup.undefine("gpt", reason="not wanted")
        assert report.gone
        assert report.report is not None
        assert report.report.asked_by == "not wanted"
        assert (sup.backends, sup.defined) == ((), ())
        for name in ("chat", "chat#0", "talker", "gpt"):
            with pytest.raises(trio_sup.UnknownBackend):
                await sup.start(name)
            with pytest.raises(trio_sup.UnknownBackend):
                async with sup.use(name):
                    pass
        assert [each.key for each in sup.exit_reports("chat#0")] == [ProcessKey("chat")]


async def test_what_does_not_run_is_forgotten(autojump_clock: MockClock) -> None:
    async with staged(Stage()) as sup:
        sup.define(CHAT, replicas=2)
        assert await sup.undefine("chat#1") == ()
        assert defined(sup) == {"chat#0": Phase.GONE}


async def test_a_name_that_nothing_is_defined_under_is_refused(autojump_clock: MockClock) -> None:
    async with staged(Stage()) as sup:
        sup.define(CHAT)
        with pytest.raises(trio_sup.UnknownBackend, match="did you mean 'chat'"):
            await sup.undefine("chad")
        assert defined(sup) == {"chat#0": Phase.GONE}


async def test_one_whose_model_has_a_hash_sign_is_named_by_its_key(autojump_clock: MockClock) -> None:
    async with staged(Stage()) as sup:
        sup.define(CHAT, model="chat#large")
        with pytest.raises(trio_sup.UnknownBackend, match=r"known are chat, chat#large#0; did you mean 'chat#large#0'"):
            await sup.start("chat#large")


async def test_what_others_need_is_kept_if_it_is_to_be(autojump_clock: MockClock) -> None:
    async with staged(Stage()) as sup:
        sup.define(spec("embed"))
        await sup.start(spec("chat", needs=["embed"]))
        with pytest.raises(trio_sup.StillNeeded):
            await sup.undefine("embed", dependents="refuse")
        with pytest.raises(trio_sup.InvalidValue):
            await sup.undefine("embed", reason="two\nlines")
        assert defined(sup) == phases(sup) == {"chat#0": Phase.READY, "embed#0": Phase.READY}
        await sup.undefine("embed")
        assert defined(sup) == {"chat#0": Phase.GONE}


async def test_nothing_takes_it_while_it_ends(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    async with staged(Stage(chat=SLOW_STOP)) as sup:
        await sup.start(CHAT)
        nursery.start_soon(sup.undefine, "chat")
        await until(sup, "chat#0", Phase.STOPPING)
        with pytest.raises(trio_sup.UnknownBackend):
            await sup.start("chat")
        with pytest.raises(trio_sup.UnknownBackend):
            async with sup.use("chat"):
                pass
        changed = attrs.evolve(CHAT, grace=1)
        backend = await sup.start(changed)  # which defines it again, and waits for the end of the other
        assert backend.spec == changed
        assert defined(sup) == {"chat#0": Phase.READY}


async def test_those_who_wait_for_it_are_told(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    async with staged(Stage(chat=FakeBackend(listens_after=10))) as sup:
        sup.define(CHAT)
        nursery.start_soon(partial(_undefine_when_starting, sup))
        with pytest.raises(trio_sup.StoppedDuringStartup):
            async with sup.use("chat"):
                pass


async def _undefine_when_starting(sup: trio_sup.Supervisor) -> None:
    await until(sup, "chat#0", Phase.STARTING)
    await sup.undefine("chat")


async def test_who_is_defined_again_comes_last_in_its_group(autojump_clock: MockClock) -> None:
    stage = Stage()
    restarts = {"strategy": "on-failure", "delay": 1}
    async with staged(stage, groups={"line": "rest-for-one"}, restart_policy=restarts) as sup:
        first, second = spec("first", group="line"), spec("second", group="line")
        await sup.start(first)
        await sup.start(second)
        await sup.undefine("first")
        await sup.start(first)
        stage.of["second"][-1].exit(trio_sup.ExitStatus(code=1))
        await again(sup, "first#0", Phase.READY)
        assert stage.keys(Phase.READY)[-2:] == ["second#0", "first#0"]
