"""The exec probe with real commands: whatever they do, nothing of them is left."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.conftest import descriptors
from tests.defaults.probing import target
from trio_sup import InvalidValue
from trio_sup.defaults._check_failed import CheckFailed
from trio_sup.defaults._exec_probe import OUTPUT_BYTES, ExecProbe

SH = shutil.which("sh")


def sh(script: str) -> ExecProbe:
    return ExecProbe(["sh", "-c", script])


async def check(probe: ExecProbe, **fields: Any) -> None:
    with trio.fail_after(10):
        await probe.check(target(4321, **fields))


async def failure(probe: ExecProbe, **fields: Any) -> str:
    with pytest.raises(CheckFailed) as caught:
        await check(probe, **fields)
    return str(caught.value)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def until_gone(pid: int) -> None:
    """The kernel needs a moment after SIGKILL."""
    with trio.fail_after(5):
        while is_alive(pid):
            await trio.sleep(0.001)


async def test_exit_0_is_ready() -> None:
    await check(ExecProbe(["true"]))


async def test_another_exit_is_not_ready_and_shows_what_it_wrote() -> None:
    assert await failure(sh("echo out; echo err >&2; exit 3")) == "sh exited with 3: out\nerr"
    assert await failure(ExecProbe(["false"])) == "false exited with 1 and wrote nothing"
    assert await failure(sh("kill -USR1 $$")) == "sh was ended by SIGUSR1 and wrote nothing"


async def test_placeholders_are_filled_in() -> None:
    assert (await failure(ExecProbe(["sh", "-c", "echo $1 $2; exit 1", "{x}", "{host}-{port}", "{address}"]))).endswith(
        ": 127.0.0.1-4321 127.0.0.1:4321"
    )


async def test_it_runs_as_the_backend_would(tmp_path: Path) -> None:
    text = await failure(sh("echo $COLOUR; pwd; cat; ps -o sid= -p $$ >/dev/null; exit 1"), cwd=tmp_path)
    assert text == f"sh exited with 1: mauve\n{tmp_path}"


async def test_it_has_a_session_of_its_own() -> None:
    await check(ExecProbe([sys.executable, "-I", "-S", "-c", "import os, sys; sys.exit(os.getsid(0) != os.getpid())"]))


async def test_a_program_that_is_not_there_is_named() -> None:
    assert "no-such-program" in await failure(ExecProbe(["no-such-program"]))
    assert "/nonexistent" in await failure(ExecProbe(["true"]), cwd="/nonexistent")


async def test_a_token_is_not_shown() -> None:
    text = await failure(sh("echo my-secret; exit 1"), token="my-secret")
    assert text == "sh exited with 1: (hidden)"


async def test_a_flood_does_not_block_it_and_only_its_end_is_kept() -> None:
    text = await failure(sh("head -c 3000000 /dev/zero | tr '\\0' x; echo the end; exit 1"))
    assert text.endswith("xxthe end")
    assert len(text) < OUTPUT_BYTES + 100


async def test_over_its_time_its_whole_group_is_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    before = descriptors()
    text = await failure(sh(f"trap '' TERM; sleep 1000 & echo $$ $! > {pids}; echo waiting; wait"), call_timeout=0.5)
    assert text == "sh took longer than 0.5 s: waiting"
    assert descriptors() == before
    for pid in map(int, pids.read_text().split()):
        await until_gone(pid)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


async def test_cancelled_its_whole_group_is_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    os.mkfifo(pids)
    before = descriptors()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(check, sh(f"sleep 1000 & echo $$ $! > {pids}; wait"))
        with trio.fail_after(5):
            texts = await trio.to_thread.run_sync(pids.read_text, abandon_on_cancel=True)
        nursery.cancel_scope.cancel()
    for pid in map(int, texts.split()):
        await until_gone(pid)
    assert descriptors() == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


async def test_what_it_leaves_in_its_group_is_killed_although_it_passed(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    await check(sh(f"sleep 1000 & echo $! > {pid}"))
    await until_gone(int(pid.read_text()))


async def test_one_that_left_the_group_and_keeps_the_output_open_does_not_delay_it(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    try:
        with trio.fail_after(5):
            await check(sh(f"setsid sh -c 'echo $$ > {pid}; exec yes' & while ! [ -s {pid} ]; do :; done"))
    finally:
        with suppress(ProcessLookupError):  # nobody reads what it writes any more, so it may have ended by itself
            os.kill(int(pid.read_text()), signal.SIGKILL)


@pytest.mark.parametrize("command", [[], "true", [""], ["a", 3], ["a\0b"], 3, None])
def test_refuses_what_is_no_command(command: Any) -> None:
    with pytest.raises(InvalidValue, match=r"^command: "):
        ExecProbe(command)


def test_it_is_polled_and_proves_nothing_about_grpc() -> None:
    probe = ExecProbe(["true"])
    assert not probe.needs_listener
    assert not probe.speaks_grpc
