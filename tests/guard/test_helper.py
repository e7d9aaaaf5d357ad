"""The helper guard: what is left of the trees of an embedded supervisor that was killed, and what is left alone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio

from trio_sup.engine._guard import HELPER
from trio_sup.engine._tree import all_ended, marked
from trio_sup.guard._proc import Process, markers_of, read_process, visible_markers

from .shapes import SHAPES, shell
from .talking import Talker, child, end, is_alive, new_id, talker


def host(command: list[str], *, supervisor_id: str | None = None, fork: bool = False) -> list[str]:
    return child("hosts_a_tree", *(["--fork"] if fork else []), supervisor_id or new_id(), *command)


@contextmanager
def stranger(supervisor_id: str) -> Iterator[Process]:
    """A process that nobody may end, in a session of its own, marked for *supervisor_id*."""
    process = subprocess.Popen(["sleep", "1000"], env=marked(os.environ, supervisor_id, 1), start_new_session=True)
    found = read_process(process.pid)
    assert found is not None
    try:
        yield found
    finally:
        process.kill()
        process.wait()


async def leader_ended_if_it_does(shape: str, talk: Talker) -> None:
    if shape.endswith("no leader"):
        leader = await talk.process_said("leader")
        await all_ended([(leader.pid, leader.started)])


@pytest.mark.parametrize("shape", SHAPES)
async def test_nothing_of_a_tree_outlives_a_killed_supervisor(shape: str) -> None:
    supervisor_id = new_id()
    with stranger(supervisor_id + "0") as bystander:
        async with talker(host(SHAPES[shape], supervisor_id=supervisor_id)) as talk:
            helper = await talk.process_said("guard")
            await talk.said("ready")
            await leader_ended_if_it_does(shape, talk)
            talk.process.kill()
            await talk.all_gone()
            await all_ended([(helper.pid, helper.started)])
        assert is_alive(bystander)


async def test_a_supervisor_that_fails_takes_its_tree_along() -> None:
    async with talker(host(SHAPES["own session"]), stderr=subprocess.DEVNULL) as talk:
        await talk.said("ready")
        talk.process.send_signal(signal.SIGTERM)  # which a Trio program does not survive either
        await talk.all_gone()


async def test_a_fork_of_the_host_that_keeps_the_line_open_does_not_hide_its_end() -> None:
    async with talker(host(SHAPES["grandchildren"], fork=True)) as talk:
        fork = await talk.process_said("fork")
        try:
            await talk.said("ready")
            talk.process.kill()
            await talk.all_gone()
            assert is_alive(fork)
        finally:
            end(fork)


async def test_the_trees_of_another_supervisor_stay() -> None:
    shape = SHAPES["grandchildren"]
    async with talker(host(shape)) as one, talker(host(shape)) as other:
        await one.said("ready")
        await other.said("ready")
        leader = await other.process_said("leader")
        guard = await one.process_said("guard")
        one.process.kill()
        await one.all_gone()
        await all_ended([(guard.pid, guard.started)])
        assert is_alive(leader)
        other.process.kill()
        await other.all_gone()


async def test_an_outer_supervisor_ends_the_inner_one_with_all_it_has() -> None:
    inner = host(SHAPES["own session"])
    async with talker(host(inner)) as talk:
        await talk.said("ready")
        talk.process.kill()
        await talk.all_gone()


async def test_an_inner_helper_is_visible_to_the_outer_supervisor_alone() -> None:
    outer, inner = new_id(), new_id()
    environment = marked(os.environ, outer, 7)
    command = host(SHAPES["a single process"], supervisor_id=inner)
    async with talker(command, env=environment) as talk:
        helper = await talk.process_said("guard")
        await talk.said("ready")
        leader = await talk.process_said("leader")
        assert markers_of(helper.pid)[-1:] == (f"{outer}/7",)
        while (markers := visible_markers(leader.pid)) is None:
            pass  # it has just become `sleep`
        assert markers[-2:] == (f"{outer}/7", f"{inner}/1")


# ---- what an embedded supervisor cannot promise


@pytest.mark.parametrize("how", ["clears", "overwrites"])
async def test_a_daemon_without_marker_session_and_parent_is_outside_the_promise(how: str) -> None:
    async with talker(host(child("daemonizes", how))) as talk:
        helper = await talk.process_said("guard")
        await talk.said("ready")
        daemon = await talk.process_said("daemon")
        talk.process.kill()
        await all_ended([(helper.pid, helper.started)])
        assert is_alive(daemon)
        end(daemon)
        await talk.all_gone()


@pytest.mark.needs("setpriv")
@pytest.mark.parametrize("how", ["hides", "changes"])
async def test_a_daemon_whose_environment_we_may_not_read_is_outside_the_promise(how: str) -> None:
    if how == "changes" and os.getuid() != 0:
        pytest.skip("only root can become another user")
    # Root may read every environment because of one capability or another.
    unprivileged = ["setpriv", "--bounding-set=-all,+setuid,+kill"] if os.getuid() == 0 else []
    async with talker([*unprivileged, *host(child("daemonizes", how))]) as talk:
        helper = await talk.process_said("guard")
        await talk.said("ready")
        daemon = await talk.process_said("daemon")
        talk.process.kill()
        await all_ended([(helper.pid, helper.started)])
        assert is_alive(daemon)
        end(daemon)
        await talk.all_gone()


# ---- the helper by itself, told what to do over its socket


class Helper:
    """A helper that watches a stand-in for the supervisor, or nothing but its socket."""

    def __init__(self, watched: int = -1) -> None:
        self.id = new_id()
        self.line, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(HELPER), self.id, str(watched), str(theirs.fileno())],
                pass_fds=[theirs.fileno(), *([watched] if watched >= 0 else [])],
            )
        self.line.settimeout(10)
        assert self.line.recv(1) == b"."

    def end(self) -> int:
        self.line.close()
        return self.process.wait(timeout=10)


def sleeper(**options: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "1000"], start_new_session=True, **options)  # type: ignore[call-overload,no-any-return]


def start_of(process: subprocess.Popen[bytes]) -> int:
    found = read_process(process.pid)
    assert found is not None
    return found.started


def test_a_registered_tree_without_a_marker_ends_with_the_line() -> None:
    helper = Helper()
    tree = sleeper()
    helper.line.sendall(b"+%d %d\n" % (tree.pid, start_of(tree)))
    assert helper.end() == 0
    assert tree.wait(timeout=10) == -signal.SIGKILL


def test_a_number_that_means_another_process_by_now_is_left_alone() -> None:
    helper = Helper()
    with stranger(new_id()) as process:
        helper.line.sendall(b"+%d %d\n" % (process.pid, process.started - 1))
        assert helper.end() == 0
        assert is_alive(process)


def test_a_member_that_was_told_of_ends_with_its_tree() -> None:
    helper = Helper()
    tree, member = sleeper(), sleeper()
    helper.line.sendall(b"+%d %d\n" % (tree.pid, start_of(tree)))
    helper.line.sendall(b"=%d %d %d\n" % (tree.pid, member.pid, start_of(member)))
    assert helper.end() == 0
    assert tree.wait(timeout=10) == member.wait(timeout=10) == -signal.SIGKILL


def test_a_member_is_left_alone_if_its_tree_is_gone_or_its_number_means_another_process() -> None:
    helper = Helper()
    tree = sleeper()
    with stranger(new_id()) as one, stranger(new_id()) as other:
        helper.line.sendall(b"+%d %d\n" % (tree.pid, start_of(tree)))
        helper.line.sendall(b"=%d %d %d\n" % (tree.pid, one.pid, one.started))
        helper.line.sendall(b"-%d\n" % tree.pid)
        helper.line.sendall(b"=%d %d %d\n" % (tree.pid, one.pid, one.started))
        helper.line.sendall(b"+%d %d\n" % (tree.pid, start_of(tree)))
        helper.line.sendall(b"=%d %d %d\n" % (tree.pid, other.pid, other.started - 1))
        assert helper.end() == 0
        assert is_alive(one)
        assert is_alive(other)
    assert tree.wait(timeout=10) == -signal.SIGKILL


def test_an_unregistered_tree_is_left_alone() -> None:
    helper = Helper()
    with stranger(new_id()) as process:
        helper.line.sendall(b"+%d %d\n-%d\n" % (process.pid, process.started, process.pid))
        assert helper.end() == 0
        assert is_alive(process)


def test_after_good_bye_nothing_is_ended() -> None:
    helper = Helper()
    with stranger(helper.id) as process:
        helper.line.sendall(b"+%d %d\nby" % (process.pid, process.started))
        helper.line.sendall(b"e\n")
        assert helper.end() == 0
        assert is_alive(process)


def test_polite_signals_do_not_end_it() -> None:
    helper = Helper()
    with stranger(helper.id) as process:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            helper.process.send_signal(number)
        assert helper.end() == 0
        assert not is_alive(process)


async def test_the_end_of_the_supervisor_is_seen_although_the_line_stays_open() -> None:
    supervisor = sleeper()
    pidfd = os.pidfd_open(supervisor.pid)
    helper = Helper(pidfd)
    os.close(pidfd)
    with stranger(helper.id) as process, trio.fail_after(10):
        supervisor.kill()
        await all_ended([(process.pid, process.started)])
        supervisor.wait()
    assert helper.process.wait(timeout=10) == 0
    helper.line.close()


def test_good_bye_counts_although_the_supervisor_ended_right_after_it() -> None:
    supervisor = sleeper()
    pidfd = os.pidfd_open(supervisor.pid)
    helper = Helper(pidfd)
    os.close(pidfd)
    helper.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, helper.process.pid, os.WSTOPPED)
    with stranger(helper.id) as process:
        helper.line.sendall(b"bye\n")
        supervisor.kill()
        supervisor.wait()
        helper.process.send_signal(signal.SIGCONT)
        assert helper.process.wait(timeout=10) == 0
        assert is_alive(process)
    helper.line.close()


async def test_it_holds_neither_output_nor_directory_of_its_host() -> None:
    async with talker(host(shell("echo ready; exec sleep 1000")), stderr=subprocess.PIPE) as talk:
        helper = await talk.process_said("guard")
        assert os.readlink(f"/proc/{helper.pid}/cwd") == "/"
        assert {os.readlink(f"/proc/{helper.pid}/fd/{number}") for number in (0, 1, 2)} == {os.devnull}
        assert helper.session == helper.pid
        assert talk.process.stderr is not None
        talk.process.stderr.close()
