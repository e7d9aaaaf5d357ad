"""The supervisor's side of its guard: there always is one, it knows the trees, and it leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from trio_sup.engine import _guard
from trio_sup.engine._guard import Guard, GuardFailed
from trio_sup.engine._tree import all_ended, marked
from trio_sup.guard._proc import Process, read_process

from .shapes import SHAPES
from .talking import child, is_alive, new_id, talker

pytestmark = pytest.mark.usefixtures("nothing_survives")


@attrs.define
class Watched:
    """A guard at work, and what it reports."""

    guard: Guard
    lost: trio.MemoryReceiveChannel[tuple[int, int | None]]


@asynccontextmanager
async def guarding(parent_pid: int | None = None, supervisor_id: str | None = None) -> AsyncIterator[Watched]:
    tell, lost = trio.open_memory_channel[tuple[int, int | None]](100)
    guard = Guard(supervisor_id or new_id(), parent_pid, lambda pid, replacement: tell.send_nowait((pid, replacement)))
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery, tell, lost:
            await nursery.start(guard.run)
            yield Watched(guard, lost)
            nursery.cancel_scope.cancel()


@contextmanager
def sleeper(supervisor_id: str | None = None) -> Iterator[Process]:
    """A process in a session of its own; it is reaped here, but ended only if it still lives."""
    environment = marked(os.environ, supervisor_id or new_id(), 1)
    process = subprocess.Popen(["sleep", "1000"], env=environment, start_new_session=True)
    found = read_process(process.pid)
    assert found is not None
    try:
        yield found
    finally:
        process.kill()
        process.wait()


def guard_process(guard: Guard) -> Process:
    assert guard.pid is not None
    process = read_process(guard.pid)
    assert process is not None
    return process


async def ended(*processes: Process) -> None:
    await all_ended((process.pid, process.started) for process in processes)


async def test_a_guard_is_there_while_it_runs_and_gone_afterwards() -> None:
    async with guarding() as watched:
        helper = guard_process(watched.guard)
        assert helper.ppid == os.getpid()
        assert helper.session == helper.pid
    assert not is_alive(helper)
    assert watched.guard.pid is None


async def test_good_bye_is_said_when_no_tree_is_left() -> None:
    supervisor_id = new_id()
    with sleeper(supervisor_id) as process:
        async with guarding(supervisor_id=supervisor_id) as watched:
            watched.guard.register(process.pid, process.started)
            watched.guard.unregister(process.pid)
        assert is_alive(process)


async def test_a_tree_that_is_still_registered_at_the_end_is_ended() -> None:
    with sleeper() as process:
        async with guarding() as watched:
            watched.guard.register(process.pid, process.started)
        assert not is_alive(process)


async def test_a_guard_that_is_killed_is_replaced_every_time() -> None:
    with sleeper() as tree:
        async with guarding() as watched:
            watched.guard.register(tree.pid, tree.started)
            for _ in range(3):
                helper = guard_process(watched.guard)
                os.kill(helper.pid, signal.SIGKILL)
                assert await watched.lost.receive() == (helper.pid, watched.guard.pid)
                assert read_process(helper.pid) is None
            assert is_alive(tree)
        assert not is_alive(tree)


async def test_the_replacement_knows_the_trees_from_before() -> None:
    shape = SHAPES["no marker, leader's session, no leader"]
    async with talker(child("hosts_a_tree", new_id(), *shape)) as talk:
        helper = await talk.process_said("guard")
        await talk.said("ready")
        await ended(await talk.process_said("leader"))
        os.kill(helper.pid, signal.SIGKILL)
        lost, successor = await talk.said("lost")
        assert lost == str(helper.pid)
        replacement = read_process(int(successor))
        assert replacement is not None
        talk.process.kill()
        await talk.all_gone()
        await ended(replacement)


async def test_the_replacement_knows_the_members_from_before() -> None:
    with sleeper() as tree, sleeper() as member, sleeper() as dropped:
        async with guarding() as watched:
            watched.guard.note_members(tree.pid, [(dropped.pid, dropped.started)])  # of a tree that is unknown yet
            watched.guard.register(tree.pid, tree.started)
            watched.guard.note_members(tree.pid, [(member.pid, member.started)])
            helper = guard_process(watched.guard)
            os.kill(helper.pid, signal.SIGKILL)
            await watched.lost.receive()
        assert not is_alive(tree)
        assert not is_alive(member)
        assert is_alive(dropped)


async def test_a_guard_that_is_our_parent_is_only_watched() -> None:
    with sleeper() as parent, sleeper() as tree:
        async with guarding(parent.pid) as watched:
            watched.guard.register(tree.pid, tree.started)
            assert watched.guard.pid == parent.pid
        assert is_alive(parent)
        assert is_alive(tree)


async def test_a_guard_that_is_our_parent_is_replaced_by_one_that_knows_the_trees() -> None:
    with sleeper() as parent, sleeper() as tree:
        async with guarding(parent.pid) as watched:
            watched.guard.register(tree.pid, tree.started)
            os.kill(parent.pid, signal.SIGKILL)
            assert await watched.lost.receive() == (parent.pid, watched.guard.pid)
            assert guard_process(watched.guard).ppid == os.getpid()
        assert not is_alive(tree)


async def test_a_stopped_guard_does_not_hold_up_registration_and_misses_nothing() -> None:
    with sleeper() as kept, sleeper() as dropped:
        async with guarding() as watched:
            helper = guard_process(watched.guard)
            os.kill(helper.pid, signal.SIGSTOP)
            watched.guard.register(dropped.pid, dropped.started)
            for number in range(20_000):
                watched.guard.register(10_000_000 + number, 1)
            for number in range(20_000):
                watched.guard.unregister(10_000_000 + number)
            watched.guard.unregister(dropped.pid)
            watched.guard.register(kept.pid, kept.started)
            os.kill(helper.pid, signal.SIGCONT)
        assert not is_alive(kept)
        assert is_alive(dropped)


async def test_what_a_slow_guard_did_not_take_at_once_reaches_it_while_we_go_on() -> None:
    async with guarding() as watched:
        helper = guard_process(watched.guard)
        os.kill(helper.pid, signal.SIGSTOP)
        for number in range(20_000):
            watched.guard.register(10_000_000 + number, 1)
        assert watched.guard._helper is not None
        unsent = watched.guard._helper._unsent
        assert unsent
        os.kill(helper.pid, signal.SIGCONT)
        while unsent:
            await trio.sleep(0.001)
        for number in range(20_000):
            watched.guard.unregister(10_000_000 + number)


@contextmanager
def interpreter(monkeypatch: pytest.MonkeyPatch, path: str) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", path)
        yield


@pytest.mark.parametrize("path", ["/nowhere/python", "/bin/false", ""])
async def test_a_guard_that_cannot_be_started_is_an_error(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with interpreter(monkeypatch, path), pytest.raises(GuardFailed, match="could not be started"):
        await Guard("x", None, lambda *_: None).run()


@pytest.fixture
def hanging(tmp_path: Path) -> str:
    path = tmp_path / "hangs"
    path.write_text("#!/bin/sh\nexec sleep 1000\n")
    path.chmod(0o755)
    return str(path)


async def test_a_guard_that_is_not_ready_in_time_is_an_error(hanging: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_guard, "READY_TIMEOUT", 0.05)
    with interpreter(monkeypatch, hanging), pytest.raises(GuardFailed, match=r"not ready within 0\.05 s"):
        await Guard("x", None, lambda *_: None).run()


async def test_a_start_that_is_cancelled_leaves_nothing(hanging: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with interpreter(monkeypatch, hanging), trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Guard("x", None, lambda *_: None).run)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()


async def test_a_loss_that_cannot_be_made_good_is_told_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with guarding() as watched:
        helper = guard_process(watched.guard)
        with interpreter(monkeypatch, "/bin/false"):
            os.kill(helper.pid, signal.SIGKILL)
            assert await watched.lost.receive() == (helper.pid, None)
            assert watched.guard.pid is None
            watched.guard.register(10_000_000, 1)  # with no guard it is kept for the next one
            watched.guard.unregister(10_000_000)
        assert await watched.lost.receive() == (helper.pid, watched.guard.pid)
        assert is_alive(guard_process(watched.guard))
