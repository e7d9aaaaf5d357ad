"""P1: after any end of the supervisor, SIGKILL included, nothing of any tree is left after 2 s."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import marked_processes
from trio_sup.guard import _proc

ROOT = Path(__file__).parent.parent.parent
ESCAPEES = ["listens", "leaves_children", "leaves_children+--clear", "ignores_sigterm", "never_listens"]


@contextmanager
def embedding(*children: str) -> Iterator[subprocess.Popen[str]]:
    """The embedding program, once it says that everything is ready."""
    program = subprocess.Popen(
        [sys.executable, "-m", "tests.processes.embedding", *children], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        yield program
    finally:
        program.kill()
        program.communicate()


def read_until(program: subprocess.Popen[str], text: str) -> str:
    assert program.stdout is not None
    seen = ""
    for line in program.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"it ended without saying {text!r}: {seen}")


def alive(pids: list[int]) -> list[int]:
    processes = (_proc.read_process(pid) for pid in pids)
    return [process.pid for process in processes if process is not None and process.alive]


def wait_until_gone(pids: list[int], seconds: float) -> list[int]:
    """What of *pids*, and of all that carries a marker, is still there after at most *seconds*."""
    give_up_at = time.monotonic() + seconds
    while (alive(pids) or marked_processes()) and time.monotonic() < give_up_at:
        time.sleep(0.01)
    return alive(pids)


def pids_in(text: str) -> list[int]:
    listed = [line.split()[1:] for line in text.splitlines() if line.startswith("children ")]
    return [int(pid) for pid in re.findall(r"^pid of .*: (\d+)$", text, re.MULTILINE)] + [
        int(pid) for pids in listed for pid in pids
    ]


def test_sigkill_of_an_embedding_program_leaves_nothing() -> None:
    with embedding(*ESCAPEES[:2], "ignores_sigterm", "never_listens") as program:
        pids = pids_in(read_until(program, "all ready"))
        assert len(alive(pids)) == len(pids) >= 8
        program.kill()
        assert wait_until_gone(pids, 2.0) == []
        assert marked_processes() == []


def test_sigkill_reaches_children_with_a_cleared_environment_that_kept_their_parents() -> None:
    with embedding("leaves_children+--clear") as program:
        pids = pids_in(read_until(program, "all ready"))
        program.kill()
        assert wait_until_gone(pids, 2.0) == []


def test_a_lost_guard_is_replaced_and_the_new_one_guards() -> None:
    with embedding("leaves_children") as program:
        pids = pids_in(read_until(program, "all ready"))
        (guard,) = [
            process.pid
            for process in _proc.scan()
            if process.ppid == program.pid and "_helper.py" in _proc.command_of(process.pid)
        ]
        os.kill(guard, signal.SIGKILL)
        assert "guard replaced: " in read_until(program, "guard replaced")
        assert alive(pids) == pids
        program.kill()
        assert wait_until_gone(pids, 2.0) == []
        assert marked_processes() == []


def test_an_orderly_end_of_the_guard_is_not_left_to_chance() -> None:
    with embedding("listens") as program:
        read_until(program, "all ready")
        program.send_signal(signal.SIGINT)
        program.communicate(timeout=20)
        assert marked_processes() == []


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(15))
def test_sigkill_at_any_moment_leaves_nothing(trial: int) -> None:
    with embedding(*ESCAPEES) as program:
        text = read_until(program, "pid of")
        time.sleep(trial * 0.02)  # the moment is the thing under test
        program.kill()
        assert program.stdout is not None
        assert wait_until_gone(pids_in(text + program.stdout.read()), 2.0) == []
        assert marked_processes() == []
