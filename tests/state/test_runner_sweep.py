"""`trio-sup run` on a state directory whose last run was killed together with every guard it had."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.conftest import child_command
from tests.runner.conftest import nothing_of_it_survives
from tests.runner.running import TCP, command_of, environment, is_alive, running
from trio_sup.engine._tree import all_ended
from trio_sup.guard._proc import command_of as command_line_of
from trio_sup.guard._proc import read_process

__all__ = ["nothing_of_it_survives"]
pytestmark = pytest.mark.usefixtures("nothing_of_it_survives")


async def wait_for_end(pid: int) -> None:
    process = read_process(pid)
    if process is not None:
        await all_ended([(pid, process.started)])


def configure(tmp_path: Path, *command: str) -> list[str]:
    path = tmp_path / "trio-sup.toml"
    path.write_text(f"[backends.a]\n{TCP}\n{command_of(*command)}\n")
    return ["run", "-c", str(path), "--state-dir", str(tmp_path / "s")]


@asynccontextmanager
async def killed_with_all_guards(
    arguments: list[str], tmp_path: Path, *, children: bool = True
) -> AsyncIterator[list[int]]:
    """Run, and kill the supervisor and both of its guards; what is left of the backend's tree."""
    async with running(*arguments, env=environment(tmp_path)) as run:
        leader = int(re.findall(r"pid (\d+)", await run.says("stderr", "a#0 is ready"))[0])
        supervisor = run.supervisor
        tree = [leader]
        if children:
            tree += map(int, (await run.says("stdout", "children")).partition("children")[2].split())
        run.process.kill()
        replacement = int(re.findall(r"pid (\d+) replaces it", await run.says("stderr", "replaces it"))[0])
        assert "_helper.py" in command_line_of(replacement)
        # Stopped, it can start no further guard before it is killed itself.
        os.kill(supervisor, signal.SIGSTOP)
        os.kill(replacement, signal.SIGKILL)
        await wait_for_end(replacement)
        os.kill(supervisor, signal.SIGKILL)
        await wait_for_end(supervisor)
    try:
        yield tree
    finally:
        for pid in filter(is_alive, tree):  # a test that fails must not leave them either
            os.kill(pid, signal.SIGKILL)


async def test_the_next_run_ends_what_is_left_and_says_so(tmp_path: Path) -> None:
    arguments = configure(tmp_path, *child_command("leaves_children"))
    with trio.fail_after(60):
        async with killed_with_all_guards(arguments, tmp_path) as tree:
            assert len(tree) == 5  # one of them in a session of its own, one a daemon
            assert all(map(is_alive, tree))
            async with running(*arguments, "--json", env=environment(tmp_path)) as run:
                line = await run.says("stderr", "left behind by an earlier supervisor")
                assert not any(map(is_alive, tree))
                assert "ended 5 left behind" in line
                assert {int(pid) for pid in re.findall(r"pid (\d+) ", line)} == set(tree)
                assert "leaves_children.py" in line
                await run.says("stdout", '"LeftoversEnded"')
                await run.says("stderr", "a#0 is ready")
                run.process.send_signal(signal.SIGTERM)
                assert await run.process.wait() == 0
            async with running(*arguments, env=environment(tmp_path)) as run:
                await run.says("stderr", "a#0 is ready")
                run.process.send_signal(signal.SIGTERM)
                assert await run.process.wait() == 0
    assert "an earlier supervisor" not in run.stderr.decode()


async def test_what_kept_neither_marker_nor_parents_but_its_session_is_found_too(tmp_path: Path) -> None:
    arguments = configure(tmp_path, *child_command("leaves_children", "--clear"))
    with trio.fail_after(60):
        async with killed_with_all_guards(arguments, tmp_path) as tree:
            assert all(map(is_alive, tree))
            async with running(*arguments, env=environment(tmp_path)) as run:
                await run.says("stderr", "ended 5 left behind by an earlier supervisor")
                assert not any(map(is_alive, tree))
                await run.says("stderr", "a#0 is ready")
                run.process.send_signal(signal.SIGTERM)
                assert await run.process.wait() == 0


async def test_a_leader_without_marker_is_known_by_its_pid_and_start_time(tmp_path: Path) -> None:
    arguments = configure(tmp_path, "env", "-i", *child_command("listens"))
    with trio.fail_after(60):
        async with killed_with_all_guards(arguments, tmp_path, children=False) as tree:
            (leader,) = tree
            assert is_alive(leader)
            async with running(*arguments, env=environment(tmp_path)) as run:
                await run.says("stderr", "ended 1 left behind by an earlier supervisor")
                assert not is_alive(leader)
                await run.says("stderr", "a#0 is ready")
                run.process.send_signal(signal.SIGTERM)
                assert await run.process.wait() == 0


async def test_a_run_whose_guard_did_its_work_leaves_nothing_to_say(tmp_path: Path) -> None:
    arguments = configure(tmp_path, *child_command("leaves_children"))
    with trio.fail_after(60):
        async with running(*arguments, env=environment(tmp_path)) as run:
            await run.says("stderr", "a#0 is ready")
            os.kill(run.supervisor, signal.SIGKILL)
            assert await run.process.wait() == 128 + signal.SIGKILL
        assert len(os.listdir(tmp_path / "s" / "trees")) == 1
        async with running(*arguments, env=environment(tmp_path)) as run:
            await run.says("stderr", "a#0 is ready")
            assert len(os.listdir(tmp_path / "s" / "trees")) == 1
            run.process.send_signal(signal.SIGTERM)
            assert await run.process.wait() == 0
    assert "an earlier supervisor" not in run.stderr.decode()
    assert os.listdir(tmp_path / "s" / "trees") == []
