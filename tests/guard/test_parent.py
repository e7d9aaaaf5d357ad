"""The guard of the runner: statuses, signals and orphans, and nothing left when the supervisor ends."""

from __future__ import annotations

import os
import pty
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from trio_sup.engine._tree import all_ended
from trio_sup.guard._proc import Process, read_process, scan

from .shapes import SHAPES, shell
from .talking import Talker, child, end, is_alive, talker


def guarded(*arguments: str) -> list[str]:
    return child("is_guarded", *arguments)


async def ended(process: Process) -> None:
    await all_ended([(process.pid, process.started)])


@pytest.mark.parametrize("shape", SHAPES)
async def test_nothing_outlives_a_killed_supervisor(shape: str) -> None:
    async with talker(guarded("run", *SHAPES[shape])) as talk:
        supervisor = await talk.process_said("supervisor")
        await talk.said("ready")
        os.kill(supervisor.pid, signal.SIGKILL)
        await talk.all_gone()
        assert await talk.status() == 128 + signal.SIGKILL


@pytest.mark.parametrize("how", ["clears", "overwrites", "hides"])
async def test_not_even_what_an_embedded_supervisor_would_lose(how: str) -> None:
    marker = {**os.environ, "TRIO_SUP_TREE": "x/1"}
    async with talker(guarded("run", *child("daemonizes", how)), env=marker) as talk:
        supervisor = await talk.process_said("supervisor")
        await talk.said("ready")
        os.kill(supervisor.pid, signal.SIGKILL)
        await talk.all_gone()
        assert await talk.status() == 128 + signal.SIGKILL


async def test_what_a_supervisor_leaves_behind_at_its_own_end_is_ended_too() -> None:
    async with talker_reading(guarded("leave", *SHAPES["own session"])) as (talk, tells):
        await talk.said("ready")
        os.write(tells, b"\n")
        await talk.all_gone()
        assert await talk.status() == 0


@asynccontextmanager
async def talker_reading(command: list[str], **options: Any) -> AsyncIterator[tuple[Talker, int]]:
    """A talker, and the descriptor that writes to its input."""
    told, tells = os.pipe()
    try:
        async with talker(command, stdin=told, **options) as talk:
            os.close(told)
            yield talk, tells
    finally:
        os.close(tells)


@pytest.mark.parametrize("code", [0, 1, 3, 130])
async def test_the_exit_code_is_passed_on_and_output_is_written_once(code: int) -> None:
    async with talker(guarded("exit", str(code))) as talk:
        assert await talk.status() == code
        await talk.all_gone()
        assert talk.lines.count(["once"]) == talk.lines.count(["unflushed"]) == 1


async def test_an_exception_is_shown_and_becomes_exit_code_1() -> None:
    with trio.fail_after(30):
        result = await trio.run_process(guarded("fail"), capture_stdout=True, capture_stderr=True, check=False)
    assert result.returncode == 1
    assert result.stderr.count(b"RuntimeError: as asked") == 1


async def test_death_by_a_signal_becomes_128_and_its_number() -> None:
    async with talker(guarded("die")) as talk:
        assert await talk.status() == 128 + signal.SIGKILL
        await talk.said("once")  # and what was written before the guard took over is not lost


async def test_signals_are_passed_on_once_each() -> None:
    numbers = [signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2]
    async with talker(guarded("count")) as talk:
        await talk.said("counting")
        for number in numbers:
            talk.process.send_signal(number)
            assert await talk.said("got") == [number.name]
        talk.process.terminate()
        assert await talk.said("counted") == [f"{number.name}=1" for number in numbers]
        assert await talk.status() == 0


async def test_a_ctrl_c_at_the_terminal_arrives_once() -> None:
    ours, theirs = pty.openpty()
    async with talker(["setsid", "--ctty", *guarded("count")], stdin=theirs) as talk:
        os.close(theirs)
        guard = await talk.process_said("guard")
        await talk.said("counting")
        os.write(ours, b"\x03")
        assert await talk.said("got") == ["SIGINT"]
        # Had the terminal reached the supervisor as well, that would have happened before this.
        os.kill(guard.pid, signal.SIGTERM)
        assert "SIGINT=1" in await talk.said("counted")
        assert await talk.status() == 0
    os.close(ours)


async def test_the_supervisor_has_a_session_of_its_own_and_no_signal_blocked() -> None:
    async with talker(guarded("count")) as talk:
        pid, session, blocked = await talk.said("supervisor")
        assert pid == session
        assert blocked == "0"
        assert await talk.said("guard") == [str(talk.pid)]


async def test_orphans_are_reaped_while_the_supervisor_lives() -> None:
    async with talker(guarded("run", *shell("(sleep 0 & echo orphan $!); echo ready; exec sleep 1000"))) as talk:
        pid = int((await talk.said("orphan"))[0])
        await talk.said("ready")
        with trio.fail_after(5):
            while read_process(pid) is not None:
                await trio.sleep(0.005)
        assert not [process for process in scan() if process.ppid == talk.pid and not process.alive]


async def test_an_ignored_sigchld_does_not_lose_the_status() -> None:
    ignoring = (
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    )
    async with talker([sys.executable, "-c", ignoring, *guarded("exit", "3")]) as talk:
        assert await talk.status() == 3


async def test_the_supervisor_goes_on_without_its_guard() -> None:
    async with talker(guarded("run", *SHAPES["a single process"])) as talk:
        supervisor = await talk.process_said("supervisor")
        await talk.said("ready")
        leader = await talk.process_said("leader")
        talk.process.kill()
        await talk.status()
        assert is_alive(supervisor)
        assert is_alive(leader)
        for process in (supervisor, leader):
            os.kill(process.pid, signal.SIGKILL)
        await talk.all_gone()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can start what it may not signal afterwards")
@pytest.mark.needs("setpriv")
@pytest.mark.slow
async def test_what_may_not_be_signalled_is_named_and_does_not_hold_it_up_for_ever(tmp_path: Path) -> None:
    # Without CAP_KILL, root may not signal another user's process.
    command = ["setpriv", "--bounding-set=-kill", *guarded("leave", *child("daemonizes", "changes"))]
    with (tmp_path / "stderr").open("w+") as stderr:
        async with talker_reading(command, stderr=stderr) as (talk, tells):
            await talk.said("ready")
            daemon = await talk.process_said("daemon")
            try:
                os.write(tells, b"\n")
                assert await talk.status() == 0
                assert is_alive(daemon)
                assert not [process for process in scan() if process.ppid == daemon.pid and process.alive]
            finally:
                end(daemon)
        stderr.seek(0)
        assert f"could not end pid {daemon.pid} (" in (said := stderr.read())
        assert "not permitted" in said
