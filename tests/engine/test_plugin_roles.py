"""What plugins may do beside offering strategies, and what becomes of those that misbehave."""

from __future__ import annotations

import errno
import logging
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

import trio_sup
from tests.conftest import next_of
from trio_sup import BackendSpec, InvalidValue, events, hookimpl
from trio_sup.events import Event
from trio_sup.strategies import Launch
from trio_sup.testing import FakeBackend, FakeSystem

SPEC = BackendSpec(name="store", command=[sys.executable, "-c", "pass"])


@attrs.frozen(kw_only=True)
class SetVariable:
    """A launch preparation that sets one variable."""

    variable: str
    value: str = "1"

    def check(self, spec: BackendSpec) -> None:
        if self.value == "refuse":
            raise InvalidValue(self.value, "not on this machine")

    def prepare(self, launch: Launch) -> Launch:
        if self.value == "raise":
            raise RuntimeError("prepare broken")
        if self.value == "nonsense":
            return None  # type: ignore[return-value]  # what a careless plugin would do
        return attrs.evolve(launch, environment={**launch.environment, self.variable: self.value})


class Preparing:
    @hookimpl
    def trio_sup_launch_preparations(self) -> Mapping[str, Any]:
        return {"set": SetVariable}


def prepared(*tables: Mapping[str, str]) -> BackendSpec:
    return attrs.evolve(SPEC, launch=[{"strategy": "set", **table} for table in tables])


async def test_launch_preparations_change_what_is_executed_in_their_order(autojump_clock: MockClock) -> None:
    system = FakeSystem()
    async with trio_sup.open_supervisor(system=system, install_lock="memory", plugins=[Preparing()]) as sup:
        await sup.start(prepared({"variable": "A"}, {"variable": "B", "value": "first"}, {"variable": "B"}))
        assert system.children[0].environment["A"] == "1"
        assert system.children[0].environment["B"] == "1"


@pytest.mark.parametrize("value", ["raise", "nonsense"])
async def test_a_preparation_that_fails_fails_its_own_start_only(autojump_clock: MockClock, value: str) -> None:
    system = FakeSystem()
    async with trio_sup.open_supervisor(system=system, install_lock="memory", plugins=[Preparing()]) as sup:
        await sup.start(SPEC, model="other")
        with pytest.raises(trio_sup.LaunchFailed, match=r"launch preparation .*set"):
            await sup.start(prepared({"variable": "A", "value": value}))
        assert len(system.children) == 1
        assert [str(backend.key) for backend in sup.backends] == ["other#0"]
    assert not system.held


async def test_a_preparation_that_refuses_and_a_misspelt_one_change_nothing(autojump_clock: MockClock) -> None:
    async with trio_sup.open_supervisor(system=FakeSystem(), install_lock="memory", plugins=[Preparing()]) as sup:
        with pytest.raises(trio_sup.InvalidValue, match="not on this machine"):
            await sup.start(prepared({"variable": "A", "value": "refuse"}))
        with pytest.raises(trio_sup.InvalidOptions, match="variable"):
            await sup.start(prepared({}))
        with pytest.raises(trio_sup.UnknownStrategy, match="did you mean 'set'"):
            await sup.start(attrs.evolve(SPEC, launch=["sett"]))
        assert sup.backends == ()


@pytest.mark.parametrize("error", [OSError("no such device"), SystemExit(3)])
async def test_a_preparation_whose_check_breaks_is_named(autojump_clock: MockClock, error: BaseException) -> None:
    def check(spec: BackendSpec) -> None:
        raise error

    breaks = SimpleNamespace(check=check, prepare=lambda launch: launch)
    async with trio_sup.open_supervisor(system=FakeSystem(), install_lock="memory") as sup:
        with pytest.raises(trio_sup.PluginError, match=r"SimpleNamespace: its check\(\) raised ") as caught:
            await sup.start(attrs.evolve(SPEC, launch=[breaks]))
        assert repr(error) in caught.value.why
        assert sup.backends == ()


@pytest.mark.parametrize(
    ("nonsense", "why"),
    [
        ({"environment": {"PORT": 21000}}, "the variable 'PORT': expected str"),
        ({"environment": {"A": "a\0b"}}, "the variable 'A': there is a null byte"),
        ({"environment": {"A=B": "1"}}, "cannot be called 'A=B'"),
        ({"environment": {1: "1"}}, "int"),
        ({"environment": None}, "NoneType"),
        ({"arguments": ["sh", 1]}, r"arguments\[1\]: expected str"),
        ({"arguments": ["sh", "\ud800"]}, r"arguments\[1\]: .*surrogates not allowed"),
        ({"arguments": "sh -c true"}, "no list of arguments"),
        ({"arguments": []}, "no list of arguments"),
        ({"executable": None}, "the executable: expected str"),
    ],
)
async def test_what_no_system_can_execute_is_the_fault_of_its_preparation(
    autojump_clock: MockClock, nonsense: Mapping[str, Any], why: str
) -> None:
    broken = SimpleNamespace(check=lambda spec: None, prepare=lambda launch: attrs.evolve(launch, **nonsense))
    async with trio_sup.open_supervisor(system=FakeSystem(), install_lock="memory") as sup:
        with pytest.raises(trio_sup.LaunchFailed, match=f"'types.SimpleNamespace' failed: .*{why}"):
            await sup.start(attrs.evolve(SPEC, launch=[broken]))


class Observing:
    def __init__(self, *observers: Callable[[Event], None]) -> None:
        self.observers = observers

    @hookimpl
    def trio_sup_observers(self) -> Sequence[Callable[[Event], None]]:
        return self.observers


async def test_observers_are_told_every_event_in_order(autojump_clock: MockClock) -> None:
    seen: list[Event] = []
    async with trio_sup.open_supervisor(
        system=FakeSystem(), install_lock="memory", plugins=[Observing(seen.append)]
    ) as sup:
        stream = sup.events()
        await sup.start(SPEC)
    assert seen == [event async for event in stream]
    assert len(seen) >= 5


async def test_an_observer_that_raises_is_named_and_not_called_again(autojump_clock: MockClock) -> None:
    seen: list[Event] = []
    calls = 0

    def raises(event: Event) -> None:
        nonlocal calls
        calls += 1
        raise RuntimeError("observer broken")

    plugins = [Observing(raises, seen.append)]
    async with trio_sup.open_supervisor(system=FakeSystem(), install_lock="memory", plugins=plugins) as sup:
        await sup.start(SPEC)
    assert calls == 1
    assert [event.sequence for event in seen] == list(range(1, len(seen) + 1))
    (failed,) = [event for event in seen if isinstance(event, events.PluginFailed)]
    assert "observer broken" in failed.what
    assert "Observing" in failed.plugin


class Serving:
    def __init__(self, service: Callable[[trio_sup.Supervisor], Awaitable[None]]) -> None:
        self.service = service

    @hookimpl
    def trio_sup_services(self, sections: Mapping[str, Any]) -> Mapping[str, Any]:
        self.sections = sections
        return {"mine": self.service}


async def test_a_service_runs_until_every_backend_has_ended(autojump_clock: MockClock) -> None:
    seen: list[tuple[str, ...]] = []

    async def service(supervisor: trio_sup.Supervisor) -> None:
        try:
            await supervisor.start(SPEC)
            await trio.sleep_forever()
        finally:
            seen.append(tuple(str(backend.key) for backend in supervisor.backends))

    plugin = Serving(service)
    system = FakeSystem(FakeBackend(stops_after=3))
    async with trio_sup.open_supervisor(
        system=system, install_lock="memory", plugins=[plugin], sections={"mine": 7}
    ) as sup:
        await next_of(sup.events(), events.BackendReady)
        assert seen == []
    assert seen == [()]
    assert plugin.sections == {"mine": 7}


async def test_a_service_that_raises_is_named_and_the_supervisor_goes_on(autojump_clock: MockClock) -> None:
    async def service(supervisor: trio_sup.Supervisor) -> None:
        async with trio.open_nursery():
            await trio.sleep(1)
            raise RuntimeError("service broken")

    async with trio_sup.open_supervisor(system=FakeSystem(), install_lock="memory", plugins=[Serving(service)]) as sup:
        failed = await next_of(sup.events(), events.PluginFailed)
        assert "mine" in failed.what
        assert (await sup.start(SPEC)).address


class SlowPorts:
    def allocate(self, key: trio_sup.ProcessKey, now: float, hold: Callable[[int], int | None]) -> int:
        time.sleep(self.takes)
        return hold(21000) or 0

    def release(self, key: trio_sup.ProcessKey, port: int, now: float) -> None: ...

    takes = 0.06


async def test_a_synchronous_call_that_takes_long_is_named_with_its_duration(autojump_clock: MockClock) -> None:
    async with trio_sup.open_supervisor(system=FakeSystem(), install_lock="memory", ports=SlowPorts()) as sup:
        stream = sup.events()
        await sup.start(SPEC)
        slow = await next_of(stream, events.PluginSlow)
        assert "SlowPorts" in slow.plugin
        assert slow.seconds >= 0.06


async def test_a_call_that_blocks_is_named_while_it_does(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "trio_sup.plugins")
    named_meanwhile: list[str] = []

    class Blocking(SlowPorts):
        def allocate(self, key: trio_sup.ProcessKey, now: float, hold: Callable[[int], int | None]) -> int:
            give_up_at = time.monotonic() + 10
            while not caplog.records and time.monotonic() < give_up_at:
                time.sleep(0.01)
            named_meanwhile.extend(record.getMessage() for record in caplog.records)
            return hold(21000) or 0

    async with trio_sup.open_supervisor(system=FakeSystem(), install_lock="memory", ports=Blocking()) as sup:
        await sup.start(SPEC)
    assert "Blocking blocks the supervisor in allocate()" in named_meanwhile[0]


async def test_a_task_that_does_not_heed_its_cancellation_is_named(autojump_clock: MockClock) -> None:
    class Shielding:
        def budget(self, spec: BackendSpec) -> float:
            return 1

        async def stop(self, target: Any) -> None:
            with trio.CancelScope(shield=True):
                await trio.sleep(60)

    system = FakeSystem(FakeBackend(stops_after=1e9))
    async with trio_sup.open_supervisor(system=system, install_lock="memory", stop_policy=Shielding()) as sup:
        stream = sup.events()
        await sup.start(SPEC)
        began = trio.current_time()
        (report,) = await sup.stop("store")
        assert report.gone
        assert trio.current_time() - began < 2
        stuck = await next_of(stream, events.PluginStuck)
        assert "store#0" in stuck.task


class Raising:
    """Fails for a reason of its own, as whatever it is used."""

    needs_listener = speaks_grpc = False

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def allocate(self, key: trio_sup.ProcessKey, now: float, hold: Callable[[int], int | None]) -> int:
        raise self.error

    def release(self, key: trio_sup.ProcessKey, port: int, now: float) -> None: ...

    def decide(self, ends: Any, rng: Any) -> Any:
        raise self.error

    def budget(self, spec: BackendSpec) -> float:
        raise self.error

    async def stop(self, target: Any) -> None:
        raise self.error

    async def check(self, target: Any) -> None:
        raise self.error

    async def warm_up(self, target: Any) -> None:
        raise self.error

    def prepare(self, launch: Launch) -> Launch:
        raise self.error

    @asynccontextmanager
    async def hold(self, backend: str, *, shared: bool) -> AsyncIterator[None]:
        raise self.error
        yield


class Unpresentable(Exception):
    def __repr__(self) -> str:
        raise AttributeError("no detail")

    __str__ = __repr__


class Worse(BaseException):
    """What is no Exception, such as the CancelledError of asyncio."""


class RaisesInPassing:
    """An observer, and a service."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    @hookimpl
    def trio_sup_observers(self) -> Sequence[Callable[[Event], None]]:
        return [self.observe]

    @hookimpl
    def trio_sup_services(self) -> Mapping[str, Any]:
        return {"mine": self.serve}

    def observe(self, event: Event) -> None:
        raise self.error

    async def serve(self, supervisor: trio_sup.Supervisor) -> None:
        raise self.error


WORST = pytest.mark.parametrize("error", [SystemExit(3), Worse(), Unpresentable()], ids=lambda one: type(one).__name__)


@WORST
async def test_no_built_in_counterpart_lets_the_worst_errors_of_a_plugin_through(
    autojump_clock: MockClock, error: BaseException
) -> None:
    plugin = Raising(error)
    system = FakeSystem([FakeBackend(exits_after=5, exit_code=1), FakeBackend()])
    async with trio_sup.open_supervisor(
        system=system, ports=plugin, install_lock=plugin, stop_policy=plugin, restart_policy=plugin
    ) as sup:
        stream = sup.events()
        await sup.start(SPEC)
        await next_of(stream, events.BackendBackoff)
        await next_of(stream, events.BackendReady)
        (report,) = await sup.stop("store")
        assert report.gone
    assert not system.held


@WORST
@pytest.mark.parametrize("field", ["readiness", "warm_up", "launch"])
async def test_the_worst_errors_of_a_plugin_fail_its_own_start_only(
    autojump_clock: MockClock, error: BaseException, field: str
) -> None:
    broken = BackendSpec(
        name="broken",
        command=SPEC.command,
        **{field: trio_sup.Readiness(probe=Raising(error)) if field == "readiness" else [Raising(error)]},
    )
    if field == "launch":
        broken.launch[0].check = lambda spec: None
    async with trio_sup.open_supervisor(system=FakeSystem(), install_lock="memory") as sup:
        with pytest.raises(trio_sup.StartFailed, match=type(error).__name__) as caught:
            await sup.start(broken)
        assert not isinstance(caught.value, trio_sup.AttemptCrashed)
        assert (await sup.start(SPEC)).address


@WORST
async def test_the_worst_errors_of_observers_and_services_are_named(
    autojump_clock: MockClock, error: BaseException
) -> None:
    seen: list[Event] = []
    plugins = [Observing(seen.append), RaisesInPassing(error)]
    async with trio_sup.open_supervisor(system=FakeSystem(), install_lock="memory", plugins=plugins) as sup:
        assert (await sup.start(SPEC)).address
    failed = [event for event in seen if isinstance(event, events.PluginFailed)]
    assert sorted(event.instead for event in failed) == [
        "it was disconnected",
        "the service has ended, the supervisor goes on",
    ]
    assert all(type(error).__name__ in event.what for event in failed)


async def test_an_asynchronous_observer_is_named_rather_than_never_run(autojump_clock: MockClock) -> None:
    seen: list[Event] = []

    async def waits(event: Event) -> None:
        await trio.sleep(1)

    plugins = [Observing(waits, seen.append)]  # type: ignore[arg-type]  # what a careless plugin would do
    async with trio_sup.open_supervisor(system=FakeSystem(), install_lock="memory", plugins=plugins) as sup:
        await sup.start(SPEC)
    (failed,) = [event for event in seen if isinstance(event, events.PluginFailed)]
    assert "it is asynchronous" in failed.what


@pytest.mark.parametrize("error", [RuntimeError("no table"), ConnectionRefusedError("no register"), KeyError("x")])
async def test_a_port_strategy_that_raises_is_named_and_affinity_takes_over(
    autojump_clock: MockClock, error: Exception
) -> None:
    async with trio_sup.open_supervisor(system=FakeSystem(), install_lock="memory", ports=Raising(error)) as sup:
        stream = sup.events()
        backend = await sup.start(SPEC)
        failed = await next_of(stream, events.PluginFailed)
        assert repr(error) in failed.what
        assert failed.instead == "'affinity' takes over"
        assert backend.port == 21000


async def test_a_system_that_refuses_to_hold_a_port_is_no_fault_of_the_strategy(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(port: int) -> None:
        raise OSError(errno.ENOBUFS, "No buffer space available")

    system = FakeSystem()
    monkeypatch.setattr(system, "hold_port", refuse)
    async with trio_sup.open_supervisor(system=system, install_lock="memory") as sup:
        stream = sup.events()
        with pytest.raises(trio_sup.LaunchFailed, match="No buffer space available"):
            await sup.start(SPEC)
    assert not [event async for event in stream if isinstance(event, events.PluginFailed)]


class Lock:
    """An install lock that misbehaves on entry or on exit."""

    def __init__(self, vice: str) -> None:
        self.vice = vice

    @asynccontextmanager
    async def hold(self, backend: str, *, shared: bool) -> AsyncIterator[None]:
        if self.vice == "raises":
            raise RuntimeError("lock broken")
        if self.vice == "shields":
            with trio.CancelScope(shield=True):
                await trio.sleep(100)
        yield
        if self.vice == "hangs at the end":
            await trio.sleep_forever()


async def test_an_install_lock_that_raises_is_named_and_the_built_in_one_takes_over(
    autojump_clock: MockClock,
) -> None:
    async with trio_sup.open_supervisor(system=FakeSystem(), install_lock=Lock("raises")) as sup:
        stream = sup.events()
        await sup.start(SPEC)
        failed = await next_of(stream, events.PluginFailed)
        assert "lock broken" in failed.what
        assert "'file'" in failed.instead


async def test_a_built_in_install_lock_that_cannot_be_had_fails_the_start_and_says_what_to_change(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    taken = tmp_path / "file"
    taken.touch()
    lock = trio_sup.Choice("file", directory=taken / "locks")
    async with trio_sup.open_supervisor(system=FakeSystem(), install_lock=lock) as sup:
        stream = sup.events()
        with pytest.raises(trio_sup.LaunchFailed, match=r"another directory .*'memory'.*Not a directory: .*file"):
            await sup.start(SPEC)
    assert not [event async for event in stream if isinstance(event, events.PluginFailed)]


async def test_an_install_lock_that_hangs_at_its_end_delays_nobody(autojump_clock: MockClock) -> None:
    async with trio_sup.open_supervisor(system=FakeSystem(), install_lock=Lock("hangs at the end")) as sup:
        await sup.start(SPEC)
        (report,) = await sup.stop("store")
        assert report.gone


async def test_a_stop_does_not_wait_for_an_install_lock_that_shields(autojump_clock: MockClock) -> None:
    async with (
        trio_sup.open_supervisor(system=FakeSystem(), install_lock=Lock("shields")) as sup,
        trio.open_nursery() as nursery,
    ):

        async def start() -> None:
            with pytest.raises(trio_sup.StoppedDuringStartup):
                await sup.start(SPEC)

        nursery.start_soon(start)
        await next_of(sup.events(), events.BackendWaiting)
        began = trio.current_time()
        (report,) = await sup.stop("store")
        assert report.gone
        assert trio.current_time() - began < 1
