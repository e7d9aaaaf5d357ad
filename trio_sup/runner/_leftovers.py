"""What is left of backends, looked up in /proc without asking the engine."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

MARKER = b"TRIO_SUP_TREE="


def supervisor_of(pid: int) -> bytes | None:
    """The id of the supervisor that started *pid*, from the marker in its environment; None if there is none.

    The marker lists ``<supervisor>/<attempt>``, outermost supervisor first, separated by colons.
    """
    for variable in _read(pid, "environ").split(b"\0"):
        if variable.startswith(MARKER):
            return variable.removeprefix(MARKER).rpartition(b":")[2].partition(b"/")[0]
    return None


def left_of(pids: Collection[int], supervisors: Collection[bytes]) -> list[int]:
    """The processes, zombies apart, that are one of *pids* or carry the marker of one of *supervisors*."""
    running = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return sorted(pid for pid in running if (pid in pids and _is_alive(pid)) or supervisor_of(pid) in supervisors)


def _is_alive(pid: int) -> bool:
    state = _read(pid, "stat").rpartition(b") ")[2][:1]
    return state not in (b"", b"Z", b"X")


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""  # it has ended meanwhile, or belongs to somebody else
