"""P1, no orphan: after any end of the supervisor, SIGKILL included, no process of any backend's tree remains after 2 s.

What an embedded supervisor cannot promise is shown in `tests/guard/test_helper.py`, and what only those may do that the
runner may not signal in `tests/guard/test_parent.py`. Here are whole programs; `test_p1_under_fire.py` kills many more.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from trio_sup.guard import _proc

from .fire.trial import BOUND, GUARDS, MARKS, SHEDS, Program

pytestmark = pytest.mark.usefixtures("nothing_survives")


@contextmanager
def running(
    folder: Path, guard: str, *kinds: Sequence[str], then: str = "wait", grace: float = 0.15
) -> Iterator[Program]:
    program = Program(guard, kinds, folder, then=then, grace=grace)
    try:
        yield program
    finally:
        program.close()


def all_ready(program: Program, count: int) -> None:
    for _ in range(count):
        program.tells("ready")
    assert program.left()


def left_in_time(program: Program) -> list[str]:
    """What is left when nothing may be left any more."""
    give_up_at = time.monotonic() + BOUND
    while (left := program.left()) and time.monotonic() < give_up_at:
        time.sleep(0.005)
    return left


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGABRT, signal.SIGSEGV])
def test_an_embedding_program_that_a_signal_ends_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path, "helper", MARKS, ["plain"]) as program:
        all_ready(program, 2)
        os.kill(program.supervisor, number)
        assert program.process.wait(timeout=10) == -number
        assert left_in_time(program) == []


def test_an_embedding_program_that_is_interrupted_leaves_nothing_when_it_has_ended(tmp_path: Path) -> None:
    with running(tmp_path, "helper", MARKS) as program:
        all_ready(program, 1)
        program.process.send_signal(signal.SIGINT)
        assert program.process.wait(timeout=20) != 0
        assert program.left() == []


def test_a_killed_supervisor_of_the_runner_leaves_nothing_however_well_it_hides(tmp_path: Path) -> None:
    with running(tmp_path, "parent", MARKS, SHEDS) as program:
        all_ready(program, 2)
        os.kill(program.supervisor, signal.SIGKILL)
        assert program.process.wait(timeout=10) == 128 + signal.SIGKILL
        assert program.left() == []


@pytest.mark.parametrize("guard", GUARDS)
def test_a_killed_guard_is_noticed_and_replaced_and_the_new_one_guards(tmp_path: Path, guard: str) -> None:
    with running(tmp_path, guard, MARKS) as program:
        all_ready(program, 1)
        known = program.left()
        lost = program.guard_pid()
        os.kill(lost, signal.SIGKILL)
        replacement = int(program.tells("guard")[2])
        assert "_helper.py" in _proc.command_of(replacement)
        assert len(program.left()) >= len(known) - 1  # everything goes on
        os.kill(program.supervisor, signal.SIGKILL)
        assert left_in_time(program) == []


def test_a_stop_that_is_cut_short_leaves_nothing_that_only_its_parent_could_tell(tmp_path: Path) -> None:
    with running(tmp_path, "helper", ["cleared_grandchild", "ignoring"], then="stop", grace=60) as program:
        leader = int(program.tells("starting")[3])
        program.tells("stopping")
        # The polite signal ends its parent, while the leader does not heed it: nothing links it to the tree any more.
        orphan = None
        while orphan is None:
            orphan = next((each for each in _proc.scan() if _has_lost_its_parent(each, program)), None)
            time.sleep(0.005)
        assert (left := _proc.read_process(leader)) is not None
        assert left.alive
        os.kill(program.supervisor, signal.SIGKILL)
        assert left_in_time(program) == []


def _has_lost_its_parent(process: _proc.Process, program: Program) -> bool:
    its_own = _proc.command_of(process.pid).startswith("sleep") and program.holds(process.pid)
    return its_own and not program.holds(process.ppid)


@pytest.mark.parametrize("guard", GUARDS)
def test_children_that_are_a_millisecond_old_are_ended_too(tmp_path: Path, guard: str) -> None:
    with running(tmp_path, guard, ["forking"], ["shedding"]) as program:
        all_ready(program, 2)
        os.kill(program.supervisor, signal.SIGKILL)
        assert left_in_time(program) == []


def test_a_guard_that_is_stopped_still_does_its_work_when_it_goes_on(tmp_path: Path) -> None:
    with running(tmp_path, "helper", MARKS) as program:
        all_ready(program, 1)
        guard = program.guard_pid()
        os.kill(guard, signal.SIGSTOP)
        os.kill(program.supervisor, signal.SIGKILL)
        program.process.wait(timeout=10)
        assert program.left()
        os.kill(guard, signal.SIGCONT)
        assert left_in_time(program) == []


def test_another_program_s_backends_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    with (
        running(tmp_path / "one", "helper", MARKS) as one,
        running(tmp_path / "other", "helper", MARKS) as other,
        subprocess.Popen(["sleep", "1000"], start_new_session=True) as stranger,
    ):
        all_ready(one, 1)
        all_ready(other, 1)
        before = other.left()
        os.kill(one.supervisor, signal.SIGKILL)
        assert left_in_time(one) == []
        assert len(other.left()) >= len(before)
        assert stranger.poll() is None
        stranger.kill()
