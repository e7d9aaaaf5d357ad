"""A supervisor with a state directory, cancelled at each of its steps: the directory is let go, and whole."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import pytest
import trio

import trio_sup
from tests.conftest import descriptors
from trio_sup import BackendSpec, ProcessKey
from trio_sup._exit_files import exits_in, read_all
from trio_sup.testing import FakeSystem, cancel_at_every_step

SPEC = BackendSpec(name="store", command=[sys.executable, "-c", "pass"])


@pytest.mark.parametrize("was_used_before", [False, pytest.param(True, marks=pytest.mark.slow)])
async def test_the_directory_is_let_go_whenever_it_is_cancelled(tmp_path: Path, was_used_before: bool) -> None:
    counter = 0
    opened: list[trio_sup.Supervisor] = []

    async def whole_life() -> None:
        opened.clear()
        state = tmp_path / ("always" if was_used_before else str(counter))
        async with trio_sup.open_supervisor(state_dir=state, system=FakeSystem(), install_lock="memory") as sup:
            opened.append(sup)
            await sup.start(SPEC)
            await sup.stop("store")

    async def check() -> None:
        nonlocal counter
        state = tmp_path / ("always" if was_used_before else str(counter))
        counter += 1
        gc.collect()
        assert len(descriptors()) == before
        if (state / "trees").exists():
            assert os.listdir(state / "trees") == []
        found = read_all(exits_in(state))
        assert found.problems == []
        for sup in opened:
            assert found.reports.get(ProcessKey("store", 0), ()) == sup.exit_reports("store#0")

    await trio.to_thread.run_sync(
        len, ()
    )  # a thread that waits for the next call has no descriptor, but costs one first
    before = len(descriptors())
    with trio.fail_after(120):
        steps = await cancel_at_every_step(whole_life, check)
    assert steps > 20
