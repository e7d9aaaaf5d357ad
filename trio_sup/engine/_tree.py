"""Whose process is it? The tree of one attempt: finding all of it, ending it, and proving it gone."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs
import trio

from .._reports import Survivor
from ..guard._proc import (
    MARKER,
    Delivery,
    Freezer,
    Process,
    command_of,
    kill_exactly,
    read_process,
    scan,
    visible_markers,
)

# Seconds between two passes that find nobody.
SETTLE = 0.005
# Seconds for which the proof waits for processes inside execve. Most are strangers, and one that hangs there (on a
# dead network file system, say) must not keep every tree from being gone.
EXECVE_PATIENCE = 0.5
# Seconds after which the tree is looked at again, although something that got SIGKILL has not ended yet.
LOOK_AGAIN = 0.1


def marker_entry(supervisor_id: str, attempt: int) -> str:
    """Name an attempt in the marker; *attempt* is a number this supervisor uses only once."""
    return f"{supervisor_id}/{attempt}"


def marked(environment: Mapping[str, str], supervisor_id: str, attempt: int) -> dict[str, str]:
    """*environment* with the marker of an attempt, appended to the marker that is there.

    So the processes of a supervisor that is itself a backend stay visible to the outer supervisor.
    """
    entries = [environment.get(MARKER, ""), marker_entry(supervisor_id, attempt)]
    # SPT_NOENV keeps setproctitle from overwriting the environment, and the marker with it.
    return {**environment, MARKER: ":".join(filter(None, entries)), "SPT_NOENV": "1"}


class ProcessTable:
    """All processes as of one pass over /proc, indexed so that hundreds of trees can ask it at little cost.

    Environments are read when a tree first asks for its marker, and once per process.

    Args:
        processes: What one pass has found; by default that pass is made now.

    Raises:
        OSError: Something could not be looked at, for want of descriptors or memory. The methods may raise it too.
    """

    def __init__(self, processes: Iterable[Process] | None = None) -> None:
        self._by_pid: dict[int, Process] = {}
        self._sessions: defaultdict[int, list[Process]] = defaultdict(list)
        self._groups: defaultdict[int, list[Process]] = defaultdict(list)
        self._children: defaultdict[int, list[Process]] = defaultdict(list)
        self._entries: defaultdict[str, list[Process]] = defaultdict(list)
        for process in scan() if processes is None else processes:
            self._by_pid[process.pid] = process
            if process.alive:
                self._sessions[process.session].append(process)
                self._groups[process.pgrp].append(process)
                self._children[process.ppid].append(process)
        # A leader begins a session in our own pid namespace, so nothing of a tree ever shows session 0; kernel
        # threads do.
        self._unread = [process for process in self._by_pid.values() if process.alive and process.session != 0]
        self._unread.sort(key=lambda process: process.started)
        self._newest_inside_execve = -1

    def get(self, pid: int) -> Process | None:
        """The process of that number, dead or alive."""
        return self._by_pid.get(pid)

    def in_session(self, number: int) -> Sequence[Process]:
        return self._sessions.get(number, ())

    def in_group(self, number: int) -> Sequence[Process]:
        return self._groups.get(number, ())

    def children_of(self, pid: int) -> Sequence[Process]:
        return self._children.get(pid, ())

    def carrying(self, entry: str, *, since: int) -> Sequence[Process]:
        """Living processes with *entry* in their marker, among those started at *since* or later."""
        self._read_environments(since)
        return self._entries.get(entry, ())

    def unsettled(self, *, since: int) -> bool:
        """Whether some process started at *since* or later is inside execve, where its marker cannot be seen."""
        self._read_environments(since)
        return self._newest_inside_execve >= since

    def _read_environments(self, since: int) -> None:
        while self._unread and self._unread[-1].started >= since:
            process = self._unread[-1]
            entries = visible_markers(process.pid)
            self._unread.pop()
            if entries is None:
                self._newest_inside_execve = max(self._newest_inside_execve, process.started)
            for entry in entries or ():
                self._entries[entry].append(process)


class SharedScan:
    """One pass over /proc for all who ask at the same time."""

    def __init__(self) -> None:
        self._batch = _Batch()

    async def fresh(self) -> ProcessTable:
        """A table whose pass began after this call.

        Raises:
            OSError: Something could not be looked at, for want of descriptors or memory.

        Cancellation: does not disturb the others who wait for the same pass.
        """
        batch = self._batch
        await trio.lowlevel.checkpoint()
        # Whoever of the batch runs first makes the pass for all of it; who asks from now on gets a later one.
        if batch.table is None:
            self._batch = _Batch()
            batch.table = ProcessTable()
        return batch.table


@attrs.define(eq=False)
class _Batch:
    table: ProcessTable | None = None


class Tree:
    """All processes of one attempt.

    A process belongs to it if it has the leader's session or group, was recorded as a descendant, descends from a
    member, or carries the attempt's entry in its marker.

    The owner keeps the leader *unreaped*, a zombie once it has ended, for as long as the tree is used: until then the
    kernel gives its number to no other process, group or session. That is what makes the numbers safe to act on.

    Args:
        pid: The leader, begun with a session of its own.
        entry: The attempt's entry in the marker (see `marker_entry`).
        on_recorded: Told, before anybody of it is ended, which members have left session and group, each by pid and
            start time: all that may be known of them once their parents have ended.

    Attributes:
        started: When the leader was started, in clock ticks; 0 if that could not be read, which only makes the
            search wider.
    """

    def __init__(
        self,
        pid: int,
        entry: str,
        on_recorded: Callable[[Iterable[tuple[int, int]]], None] = lambda members: None,
    ) -> None:
        self.pid = pid
        self.entry = entry
        self._on_recorded = on_recorded
        try:
            leader = read_process(pid)
        except OSError:
            leader = None
        self.started = leader.started if leader else 0
        self._recorded: frozenset[tuple[int, int]] = frozenset()

    def remember(self, table: ProcessTable) -> list[Process]:
        """Record its members: they stay its members even if they leave session and parent and lose the marker.

        Returns:
            The members.
        """
        members = self.members(table)
        self._recorded = frozenset((process.pid, process.started) for process in members)
        if left := [(each.pid, each.started) for each in members if self.pid not in (each.session, each.pgrp)]:
            self._on_recorded(left)
        return members

    def members(self, table: ProcessTable) -> list[Process]:
        """Its living processes, the leader included.

        Raises:
            OSError: Something could not be looked at, for want of descriptors or memory.
        """
        recorded = (table.get(pid) for pid, _ in self._recorded)
        todo = [
            *table.in_session(self.pid),
            *table.in_group(self.pid),
            *table.carrying(self.entry, since=self.started),
            *(process for process in recorded if process and (process.pid, process.started) in self._recorded),
        ]
        found: dict[int, Process] = {}
        while todo:
            process = todo.pop()
            # Nothing of a tree is older than its leader.
            if process.pid not in found and process.alive and process.started >= self.started:
                found[process.pid] = process
                todo.extend(table.children_of(process.pid))
        return list(found.values())

    def kill_group(self) -> None:
        """SIGKILL the leader's group, if the leader's number still means the leader; it needs no descriptor to."""
        with contextlib.suppress(OSError):
            leader = read_process(self.pid)
            if leader is None or (self.started and leader.started != self.started):
                return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


async def end_tree(tree: Tree, scan: SharedScan, *, timeout: float) -> tuple[Survivor, ...]:
    """SIGKILL everything of *tree* until it is proven gone.

    First it is made to stand still, so that nobody who is forked just then can hide.

    Proof is a pass over /proc that finds nobody, and nobody inside execve, where the marker cannot be seen (after
    half a second that does not count any more). If anybody was found before, there is one more such pass.

    Args:
        timeout: Seconds after which no more is tried; at least one pass is made.

    Returns:
        What is still alive, or cannot be told to be gone; empty if nothing is.

    Cancellation: leaves the tree as it is then; so call it inside a shield.
    """
    began_at = trio.current_time()
    freezer = Freezer()
    killed: set[tuple[int, int]] = set()
    clean, enough = 0, 1
    while True:
        members: list[Process] = []
        refused: list[Process] = []
        unsettled = False
        trouble: OSError | None = None
        try:
            table = await scan.fresh()
            # Recorded before anybody is killed, because a chain of parents breaks when one of them ends.
            members = tree.remember(table)
            new = [each for each in members if (each.pid, each.started) not in killed]
            if not freezer.stop(new):
                continue
            killed.update((each.pid, each.started) for each in new)
            tree.kill_group()
            refused = [each for each in members if kill_exactly(each, signal.SIGKILL) is Delivery.REFUSED]
            unsettled = table.unsettled(since=tree.started)
        except OSError as error:
            trouble = error  # no descriptors: nothing is proven, but killing the group needs none
            tree.kill_group()
        elapsed = trio.current_time() - began_at
        if members or trouble:
            clean, enough = 0, 2
        elif not unsettled or elapsed > EXECVE_PATIENCE:
            clean += 1
            if clean == enough:
                return ()
        if not (members or trouble):
            await trio.sleep(SETTLE)
        elif elapsed < timeout:
            with trio.move_on_after(min(LOOK_AGAIN, timeout - elapsed)):
                await all_ended((each.pid, each.started) for each in members)
                await trio.sleep(LOOK_AGAIN if trouble else 0)
        elif trouble:
            return (Survivor(tree.pid, command_of(tree.pid), f"its processes cannot be looked at: {trouble}"),)
        else:
            return tuple(survivor(each, refused=each in refused) for each in members)


def survivor(process: Process, *, refused: bool) -> Survivor:
    if refused:
        why = "not permitted to signal it"
    elif process.state == "D":
        why = "stuck inside the kernel, where SIGKILL does not reach it yet"
    else:
        why = "still alive after SIGKILL"
    return Survivor(process.pid, command_of(process.pid), why)


async def tree_gone(tree: Tree, scan: SharedScan) -> None:
    """Return when nothing of *tree* is alive any more; kills nothing.

    Cancellation: leaves nothing behind.
    """
    while True:
        try:
            members = tree.members(await scan.fresh())
        except OSError:
            await trio.sleep(LOOK_AGAIN)
            continue
        if not members:
            return
        await all_ended((process.pid, process.started) for process in members)


async def all_ended(processes: Iterable[tuple[int, int]]) -> None:
    """Return when all *processes*, each given as its pid and start time in clock ticks, have ended.

    It uses one descriptor, whatever their number.

    Cancellation: leaves nothing behind.
    """
    await trio.lowlevel.checkpoint()
    for pid, started in processes:
        # One after the other takes as long as all at once: the slowest decides.
        while not await _has_ended(pid, started):  # noqa: ASYNC110  # polls only if it cannot be watched
            await trio.sleep(LOOK_AGAIN)


async def _has_ended(pid: int, started: int) -> bool:
    """Wait for the end of one process; False at once if the system has no means left to watch it."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError as error:
        # EINVAL and ENOENT: the number now belongs to a thread of some process.
        return error.errno in (errno.ESRCH, errno.EINVAL, errno.ENOENT)
    try:
        process = read_process(pid)
        if process is not None and process.started == started:
            await trio.lowlevel.wait_readable(descriptor)
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
