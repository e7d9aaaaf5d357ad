"""What /proc says, read so that it cannot be misunderstood."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trio_sup.guard import _proc
from trio_sup.guard._proc import (
    Delivery,
    Freezer,
    Process,
    _all_threads_stopped,
    command_of,
    kill_exactly,
    markers_of,
    read_environment,
    read_process,
    scan,
    visible_markers,
)

from .talking import child, is_alive, talker


@contextmanager
def running(*command: str, env: dict[str, str] | None = None, user: int | None = None) -> Iterator[Process]:
    process = subprocess.Popen(command or ("sleep", "1000"), env=env, user=user)
    while visible_markers(process.pid) is None:
        pass
    found = read_process(process.pid)
    assert found is not None
    try:
        yield found
    finally:
        process.kill()
        process.wait()


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_process_is_read() -> None:
    me = read_process(os.getpid())
    assert me is not None
    assert (me.pid, me.ppid, me.pgrp, me.session) == (os.getpid(), os.getppid(), os.getpgrp(), os.getsid(0))
    assert me.state == "R"
    assert me.alive


@pytest.mark.parametrize("name", [b") R 1 1 1 (", b"a b c", b"(((", b")))", b"\n\xff"])
def test_the_name_of_a_program_cannot_confuse(name: bytes) -> None:
    libc = ctypes.CDLL(None)
    before = ctypes.create_string_buffer(16)
    libc.prctl(16, before)  # PR_GET_NAME
    libc.prctl(15, name)  # PR_SET_NAME
    try:
        me = read_process(os.getpid())
    finally:
        libc.prctl(15, before.value)
    assert me is not None
    assert (me.pid, me.ppid) == (os.getpid(), os.getppid())


def test_a_zombie_is_there_but_not_alive_until_it_is_reaped() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    zombie = read_process(process.pid)
    assert zombie is not None
    assert zombie.state == "Z"
    assert not zombie.alive
    assert kill_exactly(zombie, signal.SIGKILL) is Delivery.GONE
    process.wait()
    assert read_process(process.pid) is None
    assert kill_exactly(zombie, signal.SIGKILL) is Delivery.GONE


async def test_a_process_that_lost_its_main_thread_is_alive() -> None:
    async with talker(child("loses_its_main_thread")) as talk:
        await talk.said("ready")
        process = read_process(talk.pid)
        assert process is not None
        assert process.state == "Z"
        assert process.alive
        assert kill_exactly(process, signal.SIGKILL) is Delivery.DELIVERED
        await talk.all_gone()


def test_only_the_very_process_is_signalled() -> None:
    with running() as process:
        assert kill_exactly(process._replace(started=process.started - 1), signal.SIGKILL) is Delivery.GONE
        assert is_alive(process)
        assert kill_exactly(process, signal.SIGKILL) is Delivery.DELIVERED
        status = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert status is not None
        assert status.si_status == signal.SIGKILL


@pytest.mark.needs("setpriv")
@pytest.mark.skipif(os.getuid() != 0, reason="only root can start what it may not signal afterwards")
def test_a_refused_signal_is_told() -> None:
    script = (
        "import signal, sys; from trio_sup.guard._proc import *; "
        "print(kill_exactly(read_process(int(sys.argv[1])), signal.SIGKILL).name)"
    )
    with running(user=65534) as process:
        command = ["setpriv", "--bounding-set=-kill", sys.executable, "-c", script, str(process.pid)]
        assert subprocess.check_output(command) == b"REFUSED\n"


def now(pid: int) -> Process:
    found = read_process(pid)
    assert found is not None
    return found


def test_a_tree_stands_still_when_nobody_is_new_and_all_are_stopped() -> None:
    with running() as one, running() as other:
        freezer = Freezer()
        assert not freezer.stop([now(one.pid)])
        os.waitid(os.P_PID, one.pid, os.WSTOPPED)
        assert freezer.stop([now(one.pid)])
        assert not freezer.stop([now(one.pid), now(other.pid)])
        os.waitid(os.P_PID, other.pid, os.WSTOPPED)
        assert freezer.stop([now(one.pid), now(other.pid)])
        restless = now(one.pid)._replace(state="R")
        assert not freezer.stop([restless])
        assert freezer.stop([])
        for _ in range(2):
            assert [freezer.stop([restless]) for _ in range(11)] == [False] * 10 + [True]


def test_who_waits_inside_the_kernel_may_be_about_to_fork(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    program = """
import os, sys
os.posix_spawn("/bin/true", ["true"], {}, file_actions=[(os.POSIX_SPAWN_OPEN, 0, sys.argv[1], os.O_RDONLY, 0)])
"""
    with subprocess.Popen([sys.executable, "-c", program, fifo]) as forks:
        while now(forks.pid).state != "D":  # until its child waits for somebody to write
            pass
        try:
            freezer = Freezer()
            assert [freezer.stop([now(forks.pid)]) for _ in range(11)] == [False] * 10 + [True]
        finally:
            forks.kill()
            os.close(os.open(fifo, os.O_WRONLY))


def test_all_threads_have_to_stand_still() -> None:
    program = "import threading, time; threading.Thread(target=time.sleep, args=[1000]).start(); print(flush=True)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as threaded:
        assert threaded.stdout is not None
        threaded.stdout.readline()
        try:
            assert not _all_threads_stopped(threaded.pid)
            freezer = Freezer()
            assert not freezer.stop([now(threaded.pid)])
            os.waitid(os.P_PID, threaded.pid, os.WSTOPPED)
            assert _all_threads_stopped(threaded.pid)
            assert not freezer.stop([now(threaded.pid)])  # the last look may lack what one of them had forked
            assert freezer.stop([now(threaded.pid)])
        finally:
            threaded.kill()
    assert _all_threads_stopped(threaded.pid)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can start what it may not signal afterwards")
@pytest.mark.needs("setpriv")
def test_who_may_not_be_stopped_is_not_waited_for() -> None:
    script = (
        "import sys; from trio_sup.guard._proc import *; "
        "freezer, process = Freezer(), read_process(int(sys.argv[1])); "
        "print(freezer.stop([process]), freezer.stop([process]))"
    )
    with running(user=65534) as process:
        command = ["setpriv", "--bounding-set=-kill", sys.executable, "-c", script, str(process.pid)]
        assert subprocess.check_output(command) == b"False True\n"


def test_markers_are_read_outermost_first() -> None:
    with running(env={"A": "TRIO_SUP_TREE=no/1", "TRIO_SUP_TREE": "outer/1:inner/22", "TRIO_SUP_TREE_": "no/2"}) as it:
        assert markers_of(it.pid) == ("outer/1", "inner/22")


def test_without_a_marker_there_are_no_entries() -> None:
    with running(env={}) as process:
        assert markers_of(process.pid) == ()
    assert markers_of(2**22 + 1) == ()


def test_an_empty_environment_is_told_from_one_that_is_just_being_made() -> None:
    with running(env={}) as process:
        assert read_environment(process.pid) == b""
        assert visible_markers(process.pid) == ()
    assert visible_markers(process.pid) is None  # it has ended, and may have left a child that is in no list
    inside = 0
    for _ in range(50):
        started = subprocess.Popen(["true"], env={"A": "1"})  # returns when execve has begun
        inside += visible_markers(started.pid) is None
        started.wait()
    assert inside > 0
    assert visible_markers(os.getpid()) is not None


def test_a_marker_behind_a_large_environment_is_found() -> None:
    large = {f"V{number}": "x" * 100_000 for number in range(10)}
    with running(env={**large, "TRIO_SUP_TREE": "a/1"}) as process:
        assert markers_of(process.pid) == ("a/1",)


def test_a_marker_is_seen_or_else_it_is_said_that_it_cannot_be(tmp_path: Path) -> None:
    program = tmp_path / "executes_itself"
    program.write_text('#!/bin/sh\nexec "$0"\n')
    program.chmod(0o755)
    large = {f"V{number}": "x" * 100_000 for number in range(10)}
    process = subprocess.Popen([program], env={**large, "TRIO_SUP_TREE": "a/1"})
    try:
        seen = {visible_markers(process.pid) for _ in range(2000)}
    finally:
        process.kill()
        process.wait()
    assert seen - {None} == {("a/1",)}


def test_a_command_is_shown_or_else_the_name() -> None:
    with running("sleep", "1001") as process:
        assert command_of(process.pid) == "sleep 1001"
        os.kill(process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert command_of(process.pid) == "[sleep]"
    assert command_of(2**22 + 1) == "?"


def test_want_of_descriptors_is_not_taken_for_absence() -> None:
    me = read_process(os.getpid())
    assert me is not None
    with no_descriptors_left():
        for look in (
            lambda: read_process(me.pid),
            lambda: markers_of(me.pid),
            lambda: kill_exactly(me, signal.SIGKILL),
            scan,
        ):
            with pytest.raises(OSError, match="Too many open files") as raised:
                look()
            assert raised.value.errno == errno.EMFILE


def test_a_child_left_by_a_parent_that_ends_during_the_scan_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    told, tells = os.pipe()
    script = "read x; setsid sh -c 'echo $$; exec sleep 1000' & exit 0"
    parent = subprocess.Popen(["sh", "-c", script], stdin=told, stdout=subprocess.PIPE)
    os.close(told)
    assert parent.stdout is not None
    left: list[int] = []
    real = read_process

    def at_the_worst_moment(pid: int) -> Process | None:
        if pid == parent.pid and not left:
            os.write(tells, b"\n")
            left.append(int(parent.stdout.readline()))  # type: ignore[union-attr]
            parent.wait()
        return real(pid)

    monkeypatch.setattr(_proc, "read_process", at_the_worst_moment)
    try:
        found = {process.pid for process in scan()}
        assert left[0] in found
        assert parent.pid not in found
    finally:
        os.kill(left[0], signal.SIGKILL)
        os.close(tells)
        parent.stdout.close()
