"""Ending what an earlier supervisor of the same state directory has left behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection, Iterable, Mapping

import attrs

from .._reports import Leftover, Survivor
from ..guard._proc import Delivery, Process, command_of, kill_exactly, scan, with_descendants
from ..guard._search import PASS_INTERVAL, Proof, find
from ._tree import survivor
from ._tree_ledger import Record

_GIVEN = 5.0
"""Seconds that leftovers have to end after SIGKILL; as many as a tree has."""

_LOOK_AGAIN = 0.02


@attrs.frozen
class Remains:
    """What was found.

    Attributes:
        ended: What was left behind and is gone now.
        survivors: What could not be ended.
    """

    ended: tuple[Leftover, ...] = ()
    survivors: tuple[Survivor, ...] = ()


def end_leftovers(records: Collection[Record], *, namespace: int) -> Remains:
    """SIGKILL what is left of the trees in *records*, until several passes over /proc find nothing of them.

    What is ours is told by the marker, or by a leader whose start time is the recorded one: never by a number alone.
    This process and its ancestors are spared, even if they should be part of such a tree.

    It blocks for as long as that takes, at most about `_GIVEN` seconds; call it in a thread.

    Args:
        records: Of supervisors that have ended since this machine was booted.
        namespace: That of this process; pids of another one mean nothing here, but the marker does.
    """
    give_up_at = time.monotonic() + _GIVEN
    seen: dict[tuple[int, int], Leftover] = {}
    left: list[Process] = []
    refused: set[tuple[int, int]] = set()
    proof = Proof()
    while records and not proof.complete:
        doubtful = False
        try:
            processes = {process.pid: process for process in scan()}
            left, doubtful = _left_of(records, processes, namespace)
            for process in left:
                name = process.pid, process.started
                seen.setdefault(name, Leftover(process.pid, command_of(process.pid)))
                if kill_exactly(process, signal.SIGKILL) is Delivery.REFUSED:
                    refused.add(name)
        except OSError:
            doubtful = True  # no descriptors to look with is no proof of anything
        waited_for = [process for process in left if (process.pid, process.started) not in refused]
        if time.monotonic() > give_up_at:
            break
        proof.note(found=bool(waited_for), doubtful=doubtful)
        if not proof.complete:
            time.sleep(_LOOK_AGAIN if waited_for else PASS_INTERVAL)
    survivors = {(each.pid, each.started): survivor(each, refused=(each.pid, each.started) in refused) for each in left}
    return Remains(
        tuple(leftover for name, leftover in seen.items() if name not in survivors), tuple(survivors.values())
    )


def _left_of(records: Iterable[Record], processes: Mapping[int, Process], namespace: int) -> tuple[list[Process], bool]:
    """The living processes of the trees in *records*, and whether somebody's marker cannot be seen just now."""
    found: dict[int, Process] = {}
    doubtful = False
    for record in records:
        mine, unsure = find(record.supervisor.id, _leaders(record, processes, namespace), processes)
        doubtful = doubtful or unsure
        orphans = with_descendants(_orphans(record, processes, namespace), processes.values())
        found.update((process.pid, process) for process in (*mine, *orphans))
    spared = set(_lineage(processes))
    if os.getpid() in found:
        # We descend from such a tree ourselves, and so does whatever this program has started.
        own = [processes[os.getpid()]] if os.getpid() in processes else []
        spared.update(process.pid for process in with_descendants(own, processes.values()))
    return [process for pid, process in found.items() if process.alive and pid not in spared], doubtful


def _leaders(record: Record, processes: Mapping[int, Process], namespace: int) -> dict[int, int]:
    """The recorded leaders whose numbers mean a process now; `find` compares the start times.

    Of one that is gone the number may have been used again, more than once: see `_orphans`.
    """
    if record.supervisor.namespace != namespace:
        return {}
    return {pid: started for pid, started in record.leaders.items() if pid in processes}


def _orphans(record: Record, processes: Mapping[int, Process], namespace: int) -> list[Process]:
    """Members of a session whose leader is gone, as far as they must be from before its number could be used again.

    A process gets its session at its fork, and keeps it unless it begins one of its own. So who was forked before the
    last line of the record, when the number still meant the tree, is of the tree; who was forked later may belong to
    another session of that number. And a number that names a process again was free: nothing was left of the tree.
    """
    if record.supervisor.namespace != namespace:
        return []
    return [
        process
        for process in processes.values()
        if process.session in record.leaders
        and process.session not in processes
        and record.leaders[process.session] <= process.started < record.last_told
    ]


def _lineage(processes: Mapping[int, Process]) -> Iterable[int]:
    """This process and its ancestors."""
    pid = os.getpid()
    seen: set[int] = set()
    while pid in processes and pid not in seen:
        seen.add(pid)
        pid = processes[pid].ppid
    return seen
