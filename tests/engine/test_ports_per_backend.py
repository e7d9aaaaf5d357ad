"""A backend that chooses its own port strategy."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
from trio.testing import MockClock

import trio_sup
from tests.conftest import child_command
from trio_sup import BackendSpec, Choice, Readiness, events, hookimpl
from trio_sup.defaults._ports import FixedPorts, LifoPorts
from trio_sup.strategies import PortStrategy
from trio_sup.testing import FakeBackend, FakeSystem

SPEC = BackendSpec(name="store", command=[sys.executable, "-c", "pass"], stop_policy="kill")
DIES_OF_ITS_PORT = FakeBackend(listens_after=9, exits_after=0.1, exit_code=1, stderr=b"Address already in use\n")


def choosing(ports: Any) -> BackendSpec:
    return attrs.evolve(SPEC, ports=ports)


@asynccontextmanager
async def supervised(*behaviours: FakeBackend, **options: Any) -> AsyncIterator[tuple[trio_sup.Supervisor, FakeSystem]]:
    system = FakeSystem(behaviours)
    async with trio_sup.open_supervisor(system=system, install_lock="memory", **options) as sup:
        yield sup, system
    assert not system.held


@attrs.define(eq=False)
class Noted(LifoPorts):
    """Notes what is asked of it."""

    asked: list[str] = attrs.field(factory=list, init=False)

    def allocate(self, key: trio_sup.ProcessKey, now: float, hold: Callable[[int], int | None]) -> int:
        port = super().allocate(key, now, hold)
        self.asked.append(f"{key} gets {port}")
        return port

    def release(self, key: trio_sup.ProcessKey, port: int, now: float) -> None:
        self.asked.append(f"{key} had {port}")
        super().release(key, port, now)


class Notes:
    """Offers `Noted`, and keeps those that were made."""

    def __init__(self) -> None:
        self.made: list[Noted] = []

    def make(self, **options: Any) -> Noted:
        self.made.append(Noted(**options))
        return self.made[-1]

    @hookimpl
    def trio_sup_port_strategies(self) -> Mapping[str, Callable[..., PortStrategy]]:
        return {"noted": self.make}


async def test_a_backend_gets_its_port_from_what_it_chose(autojump_clock: MockClock) -> None:
    async with supervised(ports={"strategy": "lifo", "range": "22000-22009"}) as (sup, _):
        chosen = await sup.start(choosing({"strategy": "fixed", "ports": {"own": 23000}}), model="own", replica=1)
        other = await sup.start(SPEC, model="other")
        assert (chosen.port, other.port) == (23001, 22000)
        with pytest.raises(trio_sup.NoPortAvailable, match="no port is configured for stranger#0"):
            await sup.start(chosen.spec, model="stranger")


async def test_equal_choices_share_one_strategy_and_its_memory(autojump_clock: MockClock) -> None:
    notes = Notes()
    async with supervised(plugins=[notes], ports=Choice("noted", range="22000-22009")) as (sup, _):
        await sup.start(choosing(Choice("noted", range="23000-23009")), model="one")
        await sup.start(choosing({"strategy": "noted", "range": "23000-23009"}), model="two")
        await sup.start(choosing(Choice("noted", range="22000-22009")), model="three")
        await sup.start(SPEC, model="four")
        assert [made.asked for made in notes.made] == [
            ["three#0 gets 22000", "four#0 gets 22001"],
            ["one#0 gets 23000", "two#0 gets 23001"],
        ]
    async with supervised(ports="lifo") as (sup, _):
        narrow = Choice("affinity", range="23000-23001", quarantine="15s")
        first = await sup.start(choosing(narrow), model="one")
        await sup.stop("one")
        assert (await sup.start(choosing(narrow), model="two")).port != first.port, "it is in quarantine for all"


async def test_an_object_is_shared_by_those_who_are_given_it(autojump_clock: MockClock) -> None:
    one, other = FixedPorts(ports={"a": 23000, "b": 23001}), LifoPorts(range="23000-23009")
    async with supervised(ports=other) as (sup, _):
        found = [await sup.start(choosing(strategy), model=model) for strategy, model in ((one, "a"), (one, "b"))]
        found.append(await sup.start(choosing(other), model="c"))
        assert [backend.port for backend in found] == [23000, 23001, 23002]


@pytest.mark.parametrize("second", ["lifo", "ephemeral"])
async def test_two_strategies_never_give_one_port_twice_although_nothing_holds_it(
    autojump_clock: MockClock, second: str
) -> None:
    """A backend that sets no SO_REUSEADDR runs without the placeholder, so the system alone would give its port."""
    own = Choice("ephemeral", quarantine=1) if second == "ephemeral" else Choice("lifo", range="21000-21009")
    async with supervised(DIES_OF_ITS_PORT, FakeBackend(), ports=own) as (sup, system):
        first = await sup.start(SPEC, model="one")
        assert first.port not in system.held
        later = await sup.start(choosing(Choice(second)), model="two")
        assert later.port == (first.port or 0) + 1


async def test_a_replacement_that_chooses_otherwise_gives_the_port_back_where_it_came_from(
    autojump_clock: MockClock,
) -> None:
    notes = Notes()
    async with supervised(plugins=[notes]) as (sup, _):
        first = choosing(Choice("noted", range="22000-22009"))
        second = choosing(Choice("noted", range="23000-23009"))
        await sup.start(first)
        with pytest.raises(trio_sup.SpecConflict, match="ports"):
            await sup.start(second)
        assert (await sup.start(second, replace=True)).port == 23000
        again = attrs.evolve(second, env={"A": "1"})
        assert (await sup.start(again, replace=True)).port == 23000
        await sup.stop("store")
    assert [made.asked for made in notes.made] == [
        ["store#0 gets 22000", "store#0 had 22000"],
        ["store#0 gets 23000", "store#0 had 23000"],
    ]


async def test_a_misnamed_or_misconfigured_one_starts_nothing(autojump_clock: MockClock) -> None:
    async with supervised() as (sup, system):
        with pytest.raises(trio_sup.UnknownStrategy, match="did you mean 'affinity'"):
            await sup.start(choosing("afinity"))
        with pytest.raises(trio_sup.InvalidOptions, match="range"):
            await sup.start(choosing({"strategy": "lifo", "range": "9-1"}))
        with pytest.raises(trio_sup.InvalidValue, match="no allocate"):
            await sup.start(choosing(object()))
        assert sup.backends == ()
        assert system.children == []


class Broken:
    def allocate(self, key: trio_sup.ProcessKey, now: float, hold: Callable[[int], int | None]) -> int:
        hold(0)
        return 7

    def release(self, key: trio_sup.ProcessKey, port: int, now: float) -> None: ...


async def test_one_that_fails_is_named_and_fails_nobody_else(autojump_clock: MockClock) -> None:
    async with supervised(ports={"strategy": "lifo", "range": "22000-22009"}) as (sup, _):
        stream = sup.events()
        broken = await sup.start(choosing(Broken()), model="broken")
        other = await sup.start(SPEC, model="other")
        assert (broken.port, other.port) == (21000, 22000)
    (failed,) = [event async for event in stream if isinstance(event, events.PluginFailed)]
    assert "Broken" in failed.plugin
    assert str(failed.key) == "broken#0"


@pytest.mark.usefixtures("nothing_survives")
async def test_real_backends_share_a_range_between_two_strategies() -> None:
    def spec(child: str, ports: Any) -> BackendSpec:
        ready = Readiness(probe="tcp", timeout=30)
        return BackendSpec(name=child.replace("_", "-"), command=child_command(child), readiness=ready, ports=ports)

    lifo, affinity = Choice("lifo", range="26300-26399"), Choice("affinity", range="26300-26399", quarantine=0)
    async with trio_sup.open_supervisor(install_lock="memory", ports="ephemeral") as sup:
        found = [
            await sup.start(spec(child, ports), model=f"{child}-{number}")
            for number, (child, ports) in enumerate(
                [("binds_without_reuse", lifo), ("listens", affinity), ("listens", lifo), ("listens", None)]
            )
        ]
        given = [backend.port for backend in found]
        assert len(set(given)) == 4
        assert all(26300 <= (port or 0) <= 26399 for port in given[:3])
        assert not 26300 <= (given[3] or 0) <= 26399
