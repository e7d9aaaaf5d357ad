"""The scripted backend does as it is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio

import trio_sup
from trio_sup import BackendSpec, DiedDuringStartup, NotReadyInTime, Readiness, Supervisor
from trio_sup.bridge import open_channel
from trio_sup.defaults._warm_ups import Call, WarmUpRefused
from trio_sup.engine import Output
from trio_sup.events import BackendGone
from trio_sup.guard import _proc
from trio_sup.strategies import WarmUpTarget
from trio_sup.testing import scripted_backend

pytestmark = [pytest.mark.usefixtures("nothing_survives"), pytest.mark.slow]

TCP = Readiness(probe="tcp")
NOT_LONG = Readiness(timeout=1.5, call_timeout=0.3)


@pytest.fixture
def supervisor_options() -> dict[str, Any]:
    return {"ports": "ephemeral"}


async def test_without_options_it_behaves_well(supervisor: Supervisor) -> None:
    with trio.fail_after(20):
        await supervisor.start(scripted_backend())
        (report,) = await supervisor.stop("scripted")
    assert report.report is not None
    assert str(report.report.status) == "exit code 0"


@pytest.mark.parametrize(
    "options",
    [
        {"health": "LOADING"},
        {"loading": 60},
        {"hang_health": True},
        {"http": 200},
        {"garbage": True},
        {"mute": True},
        {"never_listens": True},
        {"delay": 60},
    ],
    ids=lambda options: next(iter(options)),
)
async def test_what_is_wrong_with_it_keeps_it_from_being_ready(supervisor: Supervisor, options: dict[str, Any]) -> None:
    with trio.fail_after(20), pytest.raises(NotReadyInTime):
        await supervisor.start(scripted_backend(readiness=NOT_LONG, grace=0.2, **options))


@pytest.mark.parametrize("option", ["delay", "loading"])
async def test_it_is_ready_only_after_its_time(supervisor: Supervisor, option: str) -> None:
    slow: Callable[..., BackendSpec] = scripted_backend
    with trio.fail_after(20):
        backend = await supervisor.start(slow(**{option: 1.0}))
    assert (backend.start_seconds or 0) >= 1.0


async def test_it_dies_when_told_and_with_its_code(supervisor: Supervisor) -> None:
    events = supervisor.events()
    with trio.fail_after(20):
        with pytest.raises(DiedDuringStartup):
            await supervisor.start(scripted_backend(name="early", die_after=0.0, code=7))
        await supervisor.start(scripted_backend(name="late", die_after=2.0, code=9))
        codes: dict[str, str] = {}
        async for event in events:
            if isinstance(event, BackendGone):
                codes[event.key.model] = str(event.report and event.report.status)
                if "late" in codes:
                    break
    assert codes == {"early": "exit code 7", "late": "exit code 9"}


@pytest.mark.parametrize(
    ("options", "took", "killed"),
    [
        ({}, (0.0, 3.0), False),
        ({"ignore_sigterm": True}, (1.0, 5.0), True),
        ({"slow_stop": 0.5}, (0.5, 1.0), False),
        ({"slow_stop": 9.0}, (1.0, 5.0), True),
        ({"free_hangs": True}, (0.3, 3.0), False),
    ],
)
async def test_it_stops_as_told(
    supervisor: Supervisor, options: dict[str, Any], took: tuple[float, float], killed: bool
) -> None:
    policy = {"strategy": "free-then-terminate", "free_timeout": 0.3}
    with trio.fail_after(20):
        await supervisor.start(scripted_backend(grace=1.0, stop_policy=policy, **options))
        began = trio.current_time()
        (report,) = await supervisor.stop("scripted")
    assert trio.current_time() - began >= took[0]
    assert report.report is not None
    assert ("exit code" not in str(report.report.status)) == killed


async def test_it_leaves_children_and_floods() -> None:
    flooded, said, enough = 0, b"", trio.Event()

    def take(output: Output) -> None:
        nonlocal flooded, said
        flooded += len(output.data) if output.stream == "stderr" else 0
        said += output.data if output.stream == "stdout" else b""
        if flooded > 200_000 and said.count(b"\n") > 1:
            enough.set()

    with trio.fail_after(20):
        async with trio_sup.open_supervisor(on_output=take, ports="ephemeral") as sup:
            await sup.start(scripted_backend(flood=500_000, fork=["plain", "group", "setsid"]))
            await enough.wait()
            pids = [int(pid) for pid in said.split(b"\n")[0].split()[1:]]
            assert len(pids) == 3
            assert all(_proc.read_process(pid) for pid in pids)
        assert not any((process := _proc.read_process(pid)) and process.alive for pid in pids)


def test_a_wrong_field_is_named() -> None:
    with pytest.raises(trio_sup.InvalidValue, match="grace"):
        scripted_backend(grace=-1)


LOAD = Call(rpc="LoadModel", request={"Model": "m"}, timeout=0.8)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"load_takes": 0.3}, None),
        ({"load_fails": True}, "LoadModel: there is no model 'm'"),
        ({"load_hangs": True}, "LoadModel: DEADLINE_EXCEEDED"),
    ],
    ids=str,
)
async def test_its_load_model_does_as_told(supervisor: Supervisor, options: dict[str, Any], why: str | None) -> None:
    spec = scripted_backend(grace=0.2, **options)
    with trio.fail_after(20):
        backend = await supervisor.start(spec)
        assert backend.address is not None
        assert backend.pid is not None
        async with open_channel(backend.address) as channel:
            target = WarmUpTarget(key=backend.key, spec=spec, pid=backend.pid, address=backend.address, channel=channel)
            began = trio.current_time()
            if why is None:
                await LOAD.warm_up(target)
                assert trio.current_time() - began >= 0.3
            else:
                with pytest.raises(WarmUpRefused, match=why):
                    await LOAD.warm_up(target)
