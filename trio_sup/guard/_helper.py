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
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trio_sup.guard import _proc, _search
else:
    # -I leaves this directory out of the path, and trio_sup need not be importable here.
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import _proc
    import _search


class Roster:
    """What the supervisor has told: which trees there are, and whether it said good-bye."""

    def __init__(self) -> None:
        self.leaders: dict[int, int] = {}
        self.members: dict[int, set[tuple[int, int]]] = {}
        self.bye = False
        self._rest = b""

    def known(self) -> set[tuple[int, int]]:
        """The members that were told one by one: pid and start time of each."""
        return {member for members in self.members.values() for member in members}

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


def sweep(supervisor_id: str, roster: Roster) -> None:
    """Kill the registered trees and everything marked, until several passes in a row find nothing new."""
    freezer = _proc.Freezer()
    known = roster.known()
    dealt_with: set[tuple[int, int]] = set()
    proof = _search.Proof()
    while not proof.complete:
        try:
            processes = {process.pid: process for process in _proc.scan() if process.pid != os.getpid()}
            found, doubtful = _search.find(supervisor_id, roster.leaders, processes, known)
            new = [each for each in found if each.alive and (each.pid, each.started) not in dealt_with]
            # Whoever was found once stays found, even if its parent ends now.
            known.update((each.pid, each.started) for each in new)
            if not freezer.stop(new):
                proof.note(found=True, doubtful=False)
                continue
            for process in new:
                # Once it has the signal it can fork no more, however long it takes to die; what refuses, refuses.
                _proc.kill_exactly(process, signal.SIGKILL)
                dealt_with.add((process.pid, process.started))
        except OSError:
            new, doubtful = [], True
        proof.note(found=bool(new), doubtful=doubtful)
        if not proof.complete:
            time.sleep(_search.PASS_INTERVAL)


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
