"""Slots that rest, waiting for their restart or given up, and what is asked of them in one and the same instant."""

from __future__ import annotations

import sys
from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock

import trio_sup
from trio_sup import BackendSpec, Phase
from trio_sup.testing import FakeBackend, FakeSystem

SLOW = {"strategy": "on-failure", "delay": "100s", "max_delay": "200s", "limit": 0, "max_start_failures": 1}
SPEC = BackendSpec(name="store", command=[sys.executable], restart_policy=SLOW)
ENOUGH = 20
"""Slots for which each order of two tasks of one instant comes up, but for one time in a million."""


@pytest.mark.parametrize(
    ("behaviour", "phase"),
    [
        (FakeBackend(exits_after=1, exit_code=1), Phase.BACKOFF),
        (FakeBackend(listens_after=9, exits_after=1, exit_code=1), Phase.GIVEN_UP),
    ],
)
async def test_a_stop_and_a_start_in_the_same_instant_are_both_answered(
    autojump_clock: MockClock, behaviour: FakeBackend, phase: Phase
) -> None:
    system = FakeSystem([behaviour] * ENOUGH + [FakeBackend()])
    answers: set[Phase | None] = set()
    async with trio_sup.open_supervisor(system=system, install_lock="memory") as sup:

        async def start(replica: int) -> None:
            try:
                answers.add((await sup.start(SPEC, replica=replica)).phase)
            except trio_sup.StoppedDuringStartup:
                answers.add(None)

        async def fail(replica: int) -> None:
            with suppress(trio_sup.GivenUp):
                await sup.start(SPEC, replica=replica)

        async with trio.open_nursery() as nursery:
            for replica in range(ENOUGH):
                nursery.start_soon(fail, replica)
        await trio.sleep(5)
        assert [backend.phase for backend in sup.backends] == [phase] * ENOUGH
        with trio.fail_after(50):
            async with trio.open_nursery() as nursery:
                for replica in range(ENOUGH):
                    nursery.start_soon(sup.stop, f"store#{replica}")
                    nursery.start_soon(start, replica)
    assert answers == {Phase.READY, None}
