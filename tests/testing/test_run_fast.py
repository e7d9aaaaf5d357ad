"""The virtual clock."""

from __future__ import annotations

import time

import pytest
import trio

from trio_sup import BackendSpec, open_supervisor
from trio_sup.events import BackendGone
from trio_sup.testing import FakeBackend, FakeSystem, run_fast


def test_hours_pass_in_no_time() -> None:
    async def an_hour() -> float:
        async with open_supervisor(system=FakeSystem(FakeBackend(exits_after=3600)), install_lock="memory") as sup:
            events = sup.events()
            await sup.start(BackendSpec(name="chat", command=["sh"]))
            async for event in events:
                if isinstance(event, BackendGone) and event.report is not None:
                    return event.report.lived
        raise AssertionError("it never ended")

    began = time.monotonic()
    assert run_fast(an_hour) == pytest.approx(3600)
    assert time.monotonic() - began < 30


def test_arguments_are_passed_on() -> None:
    async def add(one: int, two: int) -> int:
        await trio.sleep(60)
        return one + two

    assert run_fast(add, 1, 2) == 3


def test_what_never_comes_does_not_hang() -> None:
    with pytest.raises(trio.TooSlowError):
        run_fast(trio.sleep_forever)


def test_what_never_comes_does_not_hang_in_a_shield_either() -> None:
    async def shields() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()

    async def in_company() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shields)
            nursery.start_soon(trio.sleep_forever)

    with pytest.raises(trio.TooSlowError, match="waits in a shield"):
        run_fast(shields)
    with pytest.RaisesGroup(pytest.RaisesExc(trio.TooSlowError, match="shields waits in a shield")):
        run_fast(in_company)
