"""Opening and closing a supervisor."""

from __future__ import annotations

import signal

import pytest
import trio

import trio_sup
from trio_sup import BackendSpec
from trio_sup.testing import FakeSystem, cancel_at_every_step

pytestmark = pytest.mark.usefixtures("nothing_survives")


async def test_a_cancellation_at_any_step_of_its_life_ends_it() -> None:
    system = FakeSystem()

    async def whole_life() -> None:
        async with trio_sup.open_supervisor(system=system, install_lock="memory") as sup:
            await sup.start(BackendSpec(name="chat", command=["sh"]))

    async def check() -> None:
        assert not system.running()
        assert not system.held

    with trio.fail_after(60):
        steps = await cancel_at_every_step(whole_life, check)
    assert steps > 20


async def test_a_process_that_cannot_learn_how_its_children_end_is_refused() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with pytest.raises(trio_sup.Unsupported, match="SIGCHLD is ignored"):
            async with trio_sup.open_supervisor(system=FakeSystem()):
                pass
    finally:
        signal.signal(signal.SIGCHLD, before)
