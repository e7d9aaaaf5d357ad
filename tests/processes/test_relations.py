"""Needs, groups, leases and significant backends, with real processes."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import trio

import trio_sup
from tests.conftest import child_command, next_of
from trio_sup import BackendSpec, Cause, Phase, Readiness, SignificantEnded, events

pytestmark = pytest.mark.usefixtures("nothing_survives")

AT_ONCE = {"strategy": "on-failure", "delay": 0.1, "jitter": 0, "factor": 1}


def spec(name: str, **fields: Any) -> BackendSpec:
    return BackendSpec(name=name, command=child_command("listens"), readiness=Readiness(probe="tcp"), **fields)


def moves_of(told: list[events.Event], *phases: Phase) -> list[str]:
    moved = (event for event in told if isinstance(event, events.BackendMoved))
    return [f"{event.key.model} {event.phase.value}" for event in moved if event.phase in phases]


async def all_told(stream: Any) -> list[events.Event]:
    return [event async for event in stream]


async def until_ready(stream: Any, key: str) -> events.BackendReady:
    while True:
        ready = await next_of(stream, events.BackendReady)
        if str(ready.key) == key:
            return ready


async def kill(sup: trio_sup.Supervisor, key: str) -> None:
    (pid,) = [backend.pid for backend in sup.backends if str(backend.key) == key]
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


async def test_a_chain_starts_and_stops_in_order() -> None:
    with trio.fail_after(60):
        async with trio_sup.open_supervisor() as sup:
            stream = sup.events()
            for each in (spec("web", needs=["api"]), spec("api", needs=["db"]), spec("db")):
                sup.define(each)
            await sup.start("web")
            with pytest.raises(trio_sup.StillNeeded):
                await sup.stop("db", dependents="refuse")
            await sup.stop("db")
            assert sup.backends == ()
        told = await all_told(stream)
    assert moves_of(told, Phase.STARTING, Phase.READY) == [
        *("db starting", "db ready", "api starting", "api ready", "web starting", "web ready"),
    ]
    assert moves_of(told, Phase.STOPPING, Phase.GONE) == [
        *("web stopping", "web gone", "api stopping", "api gone", "db stopping", "db gone"),
    ]


async def test_a_bound_one_is_restarted_after_what_it_needs_was_killed() -> None:
    with trio.fail_after(60):
        async with trio_sup.open_supervisor() as sup:
            await sup.start(spec("db", restart_policy=AT_ONCE))
            before = await sup.start(spec("api", needs=["db"], bind=True))
            loose = await sup.start(spec("loose", needs=["db"]))
            stream = sup.events()
            await kill(sup, "db#0")
            db = await until_ready(stream, "db#0")
            api = await until_ready(stream, "api#0")
            assert api.sequence > db.sequence
            assert api.pid != before.pid
            assert [report.cause for report in sup.exit_reports("api#0")] == [Cause.NEEDED_FAILED]
            assert loose.pid in [backend.pid for backend in sup.backends]


async def test_a_group_is_restarted_with_the_member_that_was_killed() -> None:
    with trio.fail_after(60):
        async with trio_sup.open_supervisor(restart_policy=AT_ONCE, groups={"line": "rest-for-one"}) as sup:
            pids = {}
            for name in "abc":
                pids[name] = (await sup.start(spec(name, group="line"))).pid
            stream = sup.events()
            await kill(sup, "b#0")
            b = await until_ready(stream, "b#0")
            c = await until_ready(stream, "c#0")
            now = {backend.name: backend.pid for backend in sup.backends}
            assert now == {"a": pids["a"], "b": b.pid, "c": c.pid}
            assert pids["b"] != b.pid
            assert pids["c"] != c.pid


async def test_one_that_is_started_on_demand_is_stopped_when_idle() -> None:
    with trio.fail_after(60):
        async with trio_sup.open_supervisor() as sup:
            stream = sup.events()
            sup.define(spec("chat", idle_timeout=0.3))
            async with sup.use("chat") as backend:
                assert backend.pid is not None
                await trio.sleep(0.6)  # longer than it may be idle
                os.kill(backend.pid, 0)
            gone = await next_of(stream, events.BackendGone)
            assert gone.report is not None
            assert gone.report.cause is Cause.IDLE
            async with sup.use("chat") as another:
                assert another.pid != backend.pid


async def test_the_end_of_a_significant_one_ends_everything() -> None:
    others: list[int | None] = []

    async def run() -> None:
        async with trio_sup.open_supervisor() as sup:
            for name in ("one", "two"):
                others.append((await sup.start(spec(name))).pid)
            await sup.start(spec("main", significant=True))
            await kill(sup, "main#0")
            await trio.sleep_forever()

    with trio.fail_after(60):
        with pytest.raises(SignificantEnded, match=r"main#0 is significant .*SIGKILL"):
            await run()
    for pid in others:
        assert pid is not None
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
