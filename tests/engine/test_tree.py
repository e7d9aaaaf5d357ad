"""Trees: whose process is it, and is all of it really gone?"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import pytest
import trio
import trio.testing

from tests.guard.shapes import SHAPES
from tests.guard.talking import Talker, child, is_alive, new_id, talker
from trio_sup.engine import _tree
from trio_sup.engine._tree import (
    ProcessTable,
    SharedScan,
    Tree,
    all_ended,
    end_tree,
    marked,
    marker_entry,
    tree_gone,
)
from trio_sup.guard._proc import MARKER, Process, read_process

pytestmark = pytest.mark.usefixtures("nothing_survives")


@asynccontextmanager
async def planted(command: list[str], **options: object) -> AsyncIterator[tuple[Talker, Tree]]:
    """Run *command* as the leader of a tree; it is reaped at the end."""
    supervisor_id = new_id()
    environment = marked(os.environ, supervisor_id, 1)
    async with talker(command, env=environment, start_new_session=True, **options) as talk:
        yield talk, Tree(talk.pid, marker_entry(supervisor_id, 1))


@contextmanager
def sleeper(**options: object) -> Iterator[Process]:
    process = subprocess.Popen(["sleep", "1000"], start_new_session=True, **options)  # type: ignore[call-overload]
    found = read_process(process.pid)
    assert found is not None
    try:
        yield found
    finally:
        process.kill()
        process.wait()


async def leader_ended(tree: Tree) -> None:
    await all_ended([(tree.pid, tree.started)])


# ---- the marker


def test_the_marker_is_added_to_the_environment() -> None:
    given = {"PATH": "/bin"}
    assert marked(given, "me", 3) == {"PATH": "/bin", "TRIO_SUP_TREE": "me/3", "SPT_NOENV": "1"}
    assert given == {"PATH": "/bin"}


def test_the_marker_of_an_outer_supervisor_is_kept() -> None:
    assert marked(marked({}, "outer", 1), "inner", 2)["TRIO_SUP_TREE"] == "outer/1:inner/2"


# ---- who belongs to a tree; numbers no real process can have

LEADER = 10_000_000


def fake(pid: int, *, ppid: int = 1, pgrp: int = 1, session: int = 1, state: str = "S", started: int = 100) -> Process:
    return Process(pid, ppid, pgrp, session, state, started)


def fake_tree() -> Tree:
    tree = Tree(LEADER, "fake/1")
    tree.started = 100
    return tree


LEADING = fake(LEADER, pgrp=LEADER, session=LEADER)


@pytest.mark.parametrize(
    ("others", "members"),
    [
        ([], []),
        ([fake(LEADER + 1)], []),
        ([fake(LEADER + 1, session=LEADER)], [1]),
        ([fake(LEADER + 1, pgrp=LEADER)], [1]),
        ([fake(LEADER + 1, ppid=LEADER)], [1]),
        ([fake(LEADER + 2, ppid=LEADER + 1), fake(LEADER + 1, ppid=LEADER)], [1, 2]),
        ([fake(LEADER + 1, session=LEADER), fake(LEADER + 2, ppid=LEADER + 1)], [1, 2]),
        ([fake(LEADER + 1, session=LEADER, state="Z")], []),
        ([fake(LEADER + 1, session=LEADER, started=99)], []),
    ],
    ids=["nobody", "stranger", "session", "group", "child", "grandchild", "child of a member", "zombie", "older"],
)
def test_a_member_is_known_by(others: list[Process], members: list[int]) -> None:
    found = {process.pid - LEADER for process in fake_tree().members(ProcessTable([LEADING, *others]))}
    assert found == {0, *members}


def test_a_dead_leader_is_no_member() -> None:
    table = ProcessTable([LEADING._replace(state="Z"), fake(LEADER + 1, session=LEADER)])
    assert [process.pid for process in fake_tree().members(table)] == [LEADER + 1]


def test_a_recorded_descendant_stays_a_member_until_its_number_means_another_process() -> None:
    tree = fake_tree()
    tree.remember(ProcessTable([LEADING, fake(LEADER + 1, ppid=LEADER)]))
    escaped = fake(LEADER + 1)
    assert tree.members(ProcessTable([escaped])) == [escaped]
    assert tree.members(ProcessTable([escaped._replace(started=101)])) == []


def test_one_that_was_listed_and_has_ended_since_leaves_it_open_whether_all_were_seen() -> None:
    # As every leader of a tree: a session from outside this pid namespace shows as 0, like a kernel thread's.
    process = subprocess.Popen(["true"], start_new_session=True)
    listed = read_process(process.pid)
    assert listed is not None
    process.wait()
    table = ProcessTable([listed._replace(state="S")])
    assert table.unsettled(since=listed.started)
    assert not ProcessTable([listed._replace(state="Z")]).unsettled(since=listed.started)


def test_each_environment_is_read_once_and_only_if_young_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def markers(pid: int) -> tuple[str, ...]:
        read.append(pid)
        return (f"fake/{pid}",)

    monkeypatch.setattr(_tree, "visible_markers", markers)
    table = ProcessTable(
        [fake(1, started=50), fake(2, started=100), fake(3, started=150), fake(4, state="Z"), fake(5, session=0)]
    )
    assert table.carrying("fake/2", since=120) == ()
    assert read == [3]
    for pid in (2, 3):
        assert [process.pid for process in table.carrying(f"fake/{pid}", since=100)] == [pid]
    assert table.carrying("fake/1", since=100) == ()
    assert read == [3, 2]


# ---- ending it


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_tree_is_ended_and_proven_gone(shape: str) -> None:
    async with planted(SHAPES[shape]) as (talk, tree):
        with sleeper(env={**os.environ, MARKER: f"{tree.entry}1"}) as stranger:
            await talk.said("ready")
            if shape.endswith("no leader"):
                await leader_ended(tree)
            assert await end_tree(tree, SharedScan(), timeout=5) == ()
            await talk.all_gone()
            assert is_alive(stranger)


async def test_a_tree_within_a_tree_is_ended_with_it() -> None:
    inner = child("hosts_a_tree", new_id(), *SHAPES["daemon with marker"])
    async with planted(inner) as (talk, tree):
        await talk.said("ready")
        assert await end_tree(tree, SharedScan(), timeout=5) == ()
        await talk.all_gone()


async def test_a_dead_leader_with_nobody_left_is_proven_by_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[ProcessTable] = []

    class Counted(ProcessTable):
        def __init__(self) -> None:
            super().__init__()
            passes.append(self)

        def unsettled(self, *, since: int) -> bool:
            return False  # whatever strangers do just now

    monkeypatch.setattr(_tree, "ProcessTable", Counted)
    async with planted(["true"]) as (_, tree):
        await leader_ended(tree)
        assert await end_tree(tree, SharedScan(), timeout=5) == ()
    assert len(passes) == 1


async def test_a_leader_that_ends_while_its_child_is_inside_execve_leaves_nothing() -> None:
    script = "import os; os.posix_spawn('/bin/sleep', ['sleep', '1000'], os.environ, setsid=True); os._exit(0)"
    for _ in range(15):
        async with planted([sys.executable, "-I", "-S", "-c", script]) as (talk, tree):
            await leader_ended(tree)
            assert await end_tree(tree, SharedScan(), timeout=5) == ()
            await talk.all_gone()


async def test_who_was_recorded_cannot_escape_any_more() -> None:
    told, tells = os.pipe()
    async with planted(child("leaves_when_told"), stdin=told) as (talk, tree):
        os.close(told)
        escaping = await talk.process_said("child")
        tree.remember(ProcessTable())
        os.write(tells, b"\n")
        os.close(tells)
        await leader_ended(tree)
        os.kill(escaping.pid, signal.SIGUSR1)
        await talk.said("left")
        unrecorded = Tree(tree.pid, tree.entry)
        assert unrecorded.members(ProcessTable()) == []
        assert await end_tree(tree, SharedScan(), timeout=5) == ()
        await talk.all_gone()


async def test_who_left_session_and_group_is_told_before_anybody_is_ended() -> None:
    told: list[tuple[bool, set[tuple[int, int]]]] = []

    def note(members: Iterable[tuple[int, int]]) -> None:
        assert leader is not None
        told.append((is_alive(leader), set(members)))

    async with planted(SHAPES["own group"]) as (talk, planted_tree):
        await talk.said("ready")
        leader = read_process(planted_tree.pid)
        assert leader is not None
        tree = Tree(planted_tree.pid, planted_tree.entry, note)
        everybody = tree.members(ProcessTable())
        assert await end_tree(tree, SharedScan(), timeout=5) == ()
    left = {(each.pid, each.started) for each in everybody if leader.pid not in (each.pgrp, each.session)}
    assert len(left) == 1  # the other one has still the session
    assert told[0] == (True, left)


async def test_who_is_forked_after_the_look_and_sheds_every_name_is_ended_too() -> None:
    script = (
        "import os, signal, sys\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "if os.fork() == 0:\n"
        "    os.setsid(); os.execve('/bin/sh', ['sh', '-c', 'echo shed $$; exec sleep 1000'], {})\n"
        "signal.pause()\n"
    )
    told, tells = os.pipe()

    class Late(SharedScan):
        """Lets the member fork between the first look and what follows from it."""

        looks = 0

        async def fresh(self) -> ProcessTable:
            table = await super().fresh()
            self.looks += 1
            if self.looks == 1:
                os.write(tells, b"\n")
                shed = await talk.process_said("shed")
                assert table.get(shed.pid) is None
            return table

    async with planted([sys.executable, "-E", "-c", script], stdin=told) as (talk, tree):
        os.close(told)
        await talk.said("ready")
        scan = Late()
        assert await end_tree(tree, scan, timeout=5) == ()
        assert scan.looks > 1
        await talk.all_gone()
    os.close(tells)


async def test_a_member_that_lost_its_main_thread_is_ended() -> None:
    async with planted(child("loses_its_main_thread")) as (talk, tree):
        await talk.said("ready")
        assert [process.pid for process in tree.members(ProcessTable())] == [tree.pid]
        assert await end_tree(tree, SharedScan(), timeout=5) == ()
        await talk.all_gone()


@pytest.mark.needs("setpriv")
@pytest.mark.skipif(os.getuid() != 0, reason="only root can start what it may not signal afterwards")
async def test_survivors_are_named_after_the_time_is_over() -> None:
    command = ["setpriv", "--bounding-set=-kill", *child("ends_a_tree", *child("daemonizes", "changes"))]
    async with talker(command) as talk:
        daemon = await talk.process_said("daemon")
        try:
            seconds = float((await talk.said("took"))[0])
            assert 0.5 <= seconds < 1.5
            assert await talk.said("survivor") == [str(daemon.pid), "not", "permitted", "to", "signal", "it"]
        finally:
            os.kill(daemon.pid, signal.SIGKILL)


async def test_without_descriptors_the_group_is_killed_but_nothing_taken_for_proven() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with planted(SHAPES["grandchildren"]) as (talk, tree):
        await talk.said("ready")
        resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))
        try:
            survivors = await end_tree(tree, SharedScan(), timeout=0.05)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert [survivor.pid for survivor in survivors] == [tree.pid]
        assert "Too many open files" in survivors[0].why
        await talk.all_gone()
        assert await end_tree(tree, SharedScan(), timeout=5) == ()


async def test_a_number_whose_leader_was_reaped_and_followed_by_another_is_not_killed() -> None:
    process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    tree = Tree(process.pid, "planted/2")
    tree.started -= 1
    tree.kill_group()
    process.terminate()
    assert process.wait(timeout=10) == -signal.SIGTERM


async def test_tree_gone_waits_for_the_last_member_and_kills_nobody() -> None:
    async with planted(SHAPES["own session"]) as (talk, tree):
        await talk.said("ready")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tree_gone, tree, SharedScan())
            await trio.testing.wait_all_tasks_blocked(0.05)
            members = tree.members(ProcessTable())
            assert len(members) >= 2
            for process in members:
                os.kill(process.pid, signal.SIGKILL)
        assert tree.members(ProcessTable()) == []


# ---- passes that are shared


async def test_those_who_ask_at_the_same_time_share_a_pass() -> None:
    scan = SharedScan()
    tables: list[ProcessTable] = []

    async def ask() -> None:
        tables.append(await scan.fresh())

    for _ in range(2):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask)
    assert len({id(table) for table in tables[:5]}) == len({id(table) for table in tables[5:]}) == 1
    assert tables[0] is not tables[5]


async def test_one_who_is_cancelled_does_not_disturb_the_others() -> None:
    scan = SharedScan()
    tables: list[ProcessTable] = []

    async def ask(*, cancelled: bool) -> None:
        with trio.CancelScope() as scope:
            if cancelled:
                scope.cancel()
            tables.append(await scan.fresh())

    for first in (True, False):
        async with trio.open_nursery() as nursery:
            for cancelled in (first, True, not first):
                nursery.start_soon(partial(ask, cancelled=cancelled))
    assert len(tables) == 2


async def test_a_pass_begins_after_it_was_asked_for() -> None:
    scan = SharedScan()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scan.fresh)
        with sleeper() as process:
            table = await scan.fresh()
            assert table.get(process.pid) is not None


async def test_a_pass_that_fails_fails_for_nobody_else() -> None:
    scan = SharedScan()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            await scan.fresh()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (await scan.fresh()).get(os.getpid()) is not None


# ---- waiting for ends


async def test_all_ended_returns_when_the_last_has_ended() -> None:
    with sleeper() as one, sleeper() as other:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(all_ended, [(one.pid, one.started), (other.pid, other.started)])
            os.kill(other.pid, signal.SIGKILL)
            await all_ended([(other.pid, other.started)])
            await trio.testing.wait_all_tasks_blocked()
            assert nursery.child_tasks
            os.kill(one.pid, signal.SIGKILL)


async def test_a_process_that_is_gone_or_another_has_ended() -> None:
    with trio.fail_after(5), sleeper() as process:
        await all_ended([(2**22 + 1, 1), (process.pid, process.started - 1)])


async def test_a_cancelled_wait_leaves_no_descriptor() -> None:
    with sleeper() as process:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(all_ended, [(process.pid, process.started)])
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()


async def test_200_trees_ask_one_table_at_little_more_cost_than_one() -> None:
    processes = [fake(LEADER + number, session=LEADER + number, pgrp=LEADER + number) for number in range(200)]
    table = ProcessTable(processes)
    trees = [Tree(process.pid, f"fake/{process.pid}") for process in processes]
    with trio.fail_after(1):
        assert [tree.members(table) for tree in trees] == [[process] for process in processes]
        await trio.lowlevel.checkpoint()
