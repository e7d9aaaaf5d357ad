"""P9, shutdown is parallel and bounded: about the time of the slowest, within one budget, with a report of each end.

`trio-sup run` as the first process of a container is in `tests/runner/test_pid_1.py`, Ctrl-C in an embedding program in
`tests/processes/test_interrupts.py`.
"""

from __future__ import annotations

import os
import re
import signal
from functools import partial
from pathlib import Path

import pytest
import trio

import trio_sup
from tests.conftest import child_command
from tests.runner.running import TCP, command_of, environment, running
from trio_sup import Cause
from trio_sup.engine._ending import KILL_TIMEOUT

from .backends import alive, spec_of

pytestmark = pytest.mark.usefixtures("nothing_survives")

MANY = 10


async def test_many_that_must_be_killed_take_the_time_of_one() -> None:
    with trio.fail_after(60):
        async with trio_sup.open_supervisor() as sup:
            async with trio.open_nursery() as nursery:
                for replica in range(MANY):
                    nursery.start_soon(partial(sup.start, spec_of("ignores_sigterm", grace=1), replica=replica))
            pids = [backend.pid or 0 for backend in sup.backends]
            began = trio.current_time()
        took = trio.current_time() - began
    assert 1 <= took < 1 + 3
    assert alive(pids) == []
    for replica in range(MANY):
        (report,) = sup.exit_reports(f"ignores-sigterm#{replica}")
        assert (report.cause, report.killed) == (Cause.SHUTDOWN, True)
        assert 1 <= report.stop_seconds < 1 + 3


async def test_the_budget_holds_whatever_grace_was_asked_for() -> None:
    with trio.fail_after(60):
        async with trio_sup.open_supervisor(shutdown_timeout=2) as sup:
            for replica in range(3):
                await sup.start(spec_of("ignores_sigterm", grace=1000), replica=replica)
            await sup.start(spec_of("listens"))
            began = trio.current_time()
        assert trio.current_time() - began < 2 + KILL_TIMEOUT
    assert all(sup.exit_reports(f"ignores-sigterm#{replica}")[-1].killed for replica in range(3))
    assert not sup.exit_reports("listens#0")[-1].killed


async def test_one_that_stopped_itself_does_not_hold_it_up() -> None:
    with trio.fail_after(60):
        async with trio_sup.open_supervisor(shutdown_timeout=4) as sup:
            backend = await sup.start(spec_of("ignores_sigterm", grace=1))
            assert backend.pid is not None
            os.kill(backend.pid, signal.SIGSTOP)
            began = trio.current_time()
        assert trio.current_time() - began < 4 + KILL_TIMEOUT
    assert alive([backend.pid]) == []


@pytest.mark.parametrize("how", ["an exception", "a cancellation"])
async def test_it_is_the_same_however_the_block_is_left(how: str) -> None:
    pids: list[int] = []

    async def block(scope: trio.CancelScope) -> None:
        async with trio_sup.open_supervisor() as sup:
            for replica in range(3):
                pids.append((await sup.start(spec_of("listens"), replica=replica)).pid or 0)
            if how == "an exception":
                raise ZeroDivisionError
            scope.cancel()
            await trio.sleep_forever()

    with trio.fail_after(60), trio.CancelScope() as scope:
        if how == "an exception":
            with pytest.raises(ZeroDivisionError):
                await block(scope)
        else:
            await block(scope)
    assert len(pids) == 3
    assert alive(pids) == []


# ---- the runner


def configure(tmp_path: Path, **backends: str) -> Path:
    path = tmp_path / "trio-sup.toml"
    path.write_text("\n".join(f"[backends.{name}]\n{TCP}\n{text}" for name, text in backends.items()))
    return path


def child(name: str, *arguments: str) -> str:
    return command_of(*child_command(name, *arguments))


async def test_the_run_ends_in_a_report_of_how_each_ended_failures_first(tmp_path: Path) -> None:
    path = configure(
        tmp_path,
        a=child("listens"),
        stubborn=f"grace = '200ms'\n{child('ignores_sigterm')}",
        bad=child("dies_before_ready"),
    )
    with trio.fail_after(60):
        async with running("run", "-c", str(path), env=environment(tmp_path)) as run:
            await run.says("stderr", "is ready", times=2)
            await run.says("stderr", "could not start bad#0")
            run.process.send_signal(signal.SIGTERM)
            assert await run.process.wait() == 1
    report = run.stderr.decode().rpartition("stopped in ")[2]
    lines = [re.sub(r"^trio-sup \| [\d:.]+ |\d+\.\d+", "", line) for line in report.splitlines()[1:]]
    assert lines == [
        "bad#0: exit code 3, ended by itself after  s; it never became ready",
        "stubborn#0: killed by SIGKILL,  s after it was told to end; it had to be killed",
        "a#0: exit code 0,  s after it was told to end",
    ]


async def test_a_second_signal_hurries_and_all_are_still_reported(tmp_path: Path) -> None:
    path = configure(tmp_path, a=f"grace = '50s'\nreplicas = 3\n{child('ignores_sigterm')}")
    with trio.fail_after(40):
        async with running("run", "-c", str(path), env=environment(tmp_path)) as run:
            await run.says("stderr", "is ready", times=3)
            run.process.send_signal(signal.SIGINT)
            await run.says("stderr", "a#2 stops: shutdown")
            run.process.send_signal(signal.SIGINT)
            assert await run.process.wait() == 0
    assert run.stderr.decode().count("it had to be killed") >= 3
    assert "SIGINT again: killing everything" in run.stderr.decode()


async def test_a_third_signal_ends_the_supervisor_at_once_and_the_guard_does_the_rest(tmp_path: Path) -> None:
    path = configure(tmp_path, a=child("escapes", "--ignores", "--with", "own_session,daemon,cleared,cleared_daemon"))
    with trio.fail_after(40):
        async with running("run", "-c", str(path), env=environment(tmp_path)) as run:
            line = await run.says("stderr", "a#0 is ready")
            match = re.search(r"pid (\d+)", line)
            assert match is not None
            supervisor = run.supervisor
            # While it is stopped all three pile up, and are then there before anything could end.
            os.kill(supervisor, signal.SIGSTOP)
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
                os.kill(supervisor, number)
            os.kill(supervisor, signal.SIGCONT)
            assert await run.process.wait() > 128
            assert alive([int(match[1])]) == []
