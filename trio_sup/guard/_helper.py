"""The guard of an embedded supervisor: a separate process that outlives it just long enough to end its trees.

Run as ``python -I -S _helper.py <supervisor id> <pidfd of the supervisor, or -1> <socket>``, standard library only.
On the socket it writes one byte when it is ready, and reads lines: ``+<pid> <started>`` and ``-<pid>`` as leaders of
trees come and go, ``=<pid> <pid of a member> <started>`` for a member that nothing may tell any more as soon as its
parent has ended, and ``bye``. It watches two things, because each can fail: a forked child of the host may keep the
other end of the socket open, and the pidfd may be unobtainable.

Its environment is the host's, so that it carries the marker of an outer supervisor but none of its own.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trio_sup.guard import _proc
else:
    # -I leaves this directory out of the path, and trio_sup need not be importable here.
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import _proc

# A child between vfork and exec still shows its parent's environment: that is over well within the time of these.
CLEAN_PASSES = 3
PASS_INTERVAL = 0.005
# How many passes are repeated because somebody, most likely a stranger, was inside execve or could not be looked at.
MAX_WASTED_PASSES = 200


class Roster:
    """What the supervisor has told: which trees there are, and whether it said good-bye."""

    def __init__(self) -> None:
        self.leaders: dict[int, int] = {}
        self.members: dict[int, set[tuple[int, int]]] = {}
        self.bye = False
        self._rest = b""

    def feed(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line == b"bye":
                self.bye = True
            elif line.startswith(b"+"):
                pid, started = line[1:].split()
                self.leaders[int(pid)] = int(started)
            elif line.startswith(b"-"):
                self.leaders.pop(int(line[1:]), None)
                self.members.pop(int(line[1:]), None)
            elif line.startswith(b"="):
                leader, *member = map(int, line[1:].split())
                if leader in self.leaders:
                    self.members.setdefault(leader, set()).add((member[0], member[1]))


def read_all(line: int, roster: Roster) -> bool:
    """Take in what has arrived; tell whether the other end is still open."""
    while True:
        try:
            data = os.read(line, 65536)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not data:
            return False
        roster.feed(data)


def watch(supervisor: int, line: int, roster: Roster) -> None:
    """Return when the supervisor has ended or has said good-bye."""
    os.set_blocking(line, False)
    poll = select.poll()
    poll.register(line, select.POLLIN)
    if supervisor >= 0:
        poll.register(supervisor, select.POLLIN)
    ended = False
    while not (ended or roster.bye):
        ready = {descriptor for descriptor, _ in poll.poll()}
        # What it wrote before it ended counts: read first, also when only the pidfd woke us.
        ended = not read_all(line, roster) or supervisor in ready


def find(
    supervisor_id: str,
    leaders: Mapping[int, int],
    known: Collection[tuple[int, int]],
    processes: Mapping[int, _proc.Process],
) -> tuple[list[_proc.Process], bool]:
    """What belongs to the supervisor's trees, and whether somebody's marker cannot be seen just now."""
    # A leader stays unreaped until it is unregistered, so its number meant its tree when the supervisor ended, and
    # cannot come to mean another one while members of its session live. If it names a newer process by now, nothing
    # was left of the tree.
    ours = {pid for pid, started in leaders.items() if pid not in processes or processes[pid].started == started}
    prefix = f"{supervisor_id}/"
    found, doubtful = [], False
    for process in processes.values():
        numbers = ours.intersection((process.pid, process.session, process.pgrp))
        if (process.pid, process.started) in known or any(process.started >= leaders[number] for number in numbers):
            found.append(process)
        # A leader begins a session in our own pid namespace, so nothing of a tree ever shows session 0; kernel
        # threads do.
        elif process.session:
            entries = _proc.visible_markers(process.pid)
            if any(entry.startswith(prefix) for entry in entries or ()):
                found.append(process)
            doubtful = doubtful or entries is None
    return _proc.with_descendants(found, processes.values()), doubtful


def sweep(supervisor_id: str, roster: Roster) -> None:
    """Kill the registered trees and everything marked, until several passes in a row find nothing new."""
    freezer = _proc.Freezer()
    known = {member for members in roster.members.values() for member in members}
    dealt_with: set[tuple[int, int]] = set()
    clean = wasted = 0
    while clean < CLEAN_PASSES:
        try:
            processes = {process.pid: process for process in _proc.scan() if process.pid != os.getpid()}
            found, doubtful = find(supervisor_id, roster.leaders, known, processes)
            new = [each for each in found if each.alive and (each.pid, each.started) not in dealt_with]
            # Whoever was found once stays found, even if its parent ends now.
            known.update((each.pid, each.started) for each in new)
            if not freezer.stop(new):
                clean = 0
                continue
            for process in new:
                # Once it has the signal it can fork no more, however long it takes to die; what refuses, refuses.
                _proc.kill_exactly(process, signal.SIGKILL)
                dealt_with.add((process.pid, process.started))
        except OSError:
            new, doubtful = [], True
        wasted += doubtful
        if new:
            clean = 0
        elif not doubtful or wasted > MAX_WASTED_PASSES:
            clean += 1
        if clean < CLEAN_PASSES:
            time.sleep(PASS_INTERVAL)


def main(arguments: list[str]) -> None:
    supervisor_id, supervisor, line = arguments[0], int(arguments[1]), int(arguments[2])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # it has ended already: the watch will find out
        os.write(line, b".")
    roster = Roster()
    watch(supervisor, line, roster)
    if not roster.bye:
        sweep(supervisor_id, roster)


if __name__ == "__main__":
    main(sys.argv[1:])
