"""What belongs to the trees of a supervisor that has ended.

Standard library only, and importable without trio_sup: the helper guard loads it by path.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # noqa: SIM114  # what follows is not for the type checker
    from . import _proc
elif __package__:
    from . import _proc
else:
    import _proc

# A child between vfork and exec still shows its parent's environment. That is over well within the time of these, also
# on a machine so busy that it is not given a processor for a tenth of a second.
CLEAN_PASSES = 20
PASS_INTERVAL = 0.005
# How many passes are repeated because somebody, most likely a stranger, was inside execve or could not be looked at.
MAX_WASTED_PASSES = 200


class Proof:
    """That nothing is left: passes over /proc, several in a row, which find nothing and have no doubt.

    Attributes:
        complete: Whether there have been enough of them.
    """

    def __init__(self) -> None:
        self.complete = False
        self._clean = self._wasted = 0

    def note(self, *, found: bool, doubtful: bool) -> None:
        """Count a pass: whether it *found* anything, and whether it might have missed something."""
        self._wasted += doubtful
        if found:
            self._clean = 0
        elif not doubtful or self._wasted > MAX_WASTED_PASSES:
            self._clean += 1
        self.complete = self._clean >= CLEAN_PASSES


def find(
    supervisor_id: str,
    leaders: Mapping[int, int],
    processes: Mapping[int, _proc.Process],
    members: Collection[tuple[int, int]] = (),
) -> tuple[list[_proc.Process], bool]:
    """What belongs to the supervisor's trees, and whether somebody's marker cannot be seen just now.

    Args:
        leaders: Start time of each tree's first process, by pid. It must be known that these numbers meant the trees
            until a moment ago.
        members: Processes that are known to belong to the trees, each by pid and start time.
    """
    # A leader stays unreaped until it is unregistered, so its number meant its tree when the supervisor ended, and
    # cannot come to mean another one while members of its session live. If it names a newer process by now, nothing
    # was left of the tree.
    ours = {pid for pid, started in leaders.items() if pid not in processes or processes[pid].started == started}
    prefix = f"{supervisor_id}/"
    found, doubtful = [], False
    for process in processes.values():
        numbers = ours.intersection((process.pid, process.session, process.pgrp))
        if (process.pid, process.started) in members or any(process.started >= leaders[each] for each in numbers):
            found.append(process)
        # A leader begins a session in our own pid namespace, so nothing of a tree ever shows session 0; kernel
        # threads do.
        elif process.session and process.alive:
            entries = _proc.visible_markers(process.pid)
            if any(entry.startswith(prefix) for entry in entries or ()):
                found.append(process)
            doubtful = doubtful or entries is None
    return _proc.with_descendants(found, processes.values()), doubtful
