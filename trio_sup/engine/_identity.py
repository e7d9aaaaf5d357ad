"""Whose is the listener? A port is a backend's own only if every socket that serves it belongs to its tree."""

from __future__ import annotations

import enum
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import attrs

from ._sockets import Address, Socket, SocketTable, socket_inodes

_ROUNDS = 4
_NAMING_BUDGET = 0.02
"""Seconds spent at most on finding out who the stranger is."""


class Verdict(enum.Enum):
    """Who serves a port."""

    OURS = "ours"
    STRANGER = "stranger"
    UNKNOWN = "unknown"


@attrs.frozen
class Identity:
    """What could be told about who serves a port.

    Attributes:
        why: For people; empty if it is ours.
        uid_matches: Whether every socket seen belongs to the expected user; None if none was seen. Weaker evidence,
            for when the verdict is unknown.
        listens: Whether anything was seen to listen on the port.
    """

    verdict: Verdict
    why: str = ""
    uid_matches: bool | None = None
    listens: bool = True


def identify(
    port: int,
    tree_pids: Callable[[], Iterable[int]],
    table: SocketTable,
    *,
    leader: int,
    uid: int,
    connection: tuple[Address, Address] | None,
    proven: set[int] | None = None,
) -> Identity:
    """Tell whether the process tree of *leader* serves *port*, and it alone.

    Args:
        tree_pids: Every process of the tree; called only if the leader does not hold all the sockets itself.
        uid: The user that the backend's sockets should belong to.
        connection: The client's ends of the connection that was answered: its own name and its peer's, as from
            `getsockname()` and `getpeername()`. Its server end must belong to the tree as well, unless it is closed.
        proven: Inodes of sockets that were found to be the tree's before, which are not looked for again: as long as a
            socket is there, its number is its own. Replaced by what is found to be the tree's now.
    """
    proven = set() if proven is None else proven
    before: tuple[list[Socket], bool] | None = None
    for _ in range(_ROUNDS):
        try:
            listeners = table.listeners_on(port)
            server = table.connection(connection[1], connection[0]) if connection else None
        except OSError as error:
            return Identity(Verdict.UNKNOWN, f"the kernel's socket tables cannot be read: {error}", listens=False)
        # An end that is closed or was never accepted has no inode: it is nobody's, and no evidence.
        sockets = listeners + ([server] if server is not None and server.inode else [])
        if not sockets:
            why = f"no listener on port {port} is visible in this network namespace"
            return Identity(Verdict.UNKNOWN, why, listens=False)
        foreign, readable = _not_held([one for one in sockets if one.inode not in proven], leader, tree_pids)
        proven.clear()
        proven.update({one.inode for one in sockets} - {one.inode for one in foreign})
        verdict, why = Verdict.OURS, ""
        if not foreign and not listeners:
            verdict, why = Verdict.UNKNOWN, f"nothing listens on port {port} any more"
        elif foreign:
            # A listener may be replaced, or be handed to a child just forked, between these looks: a no must repeat.
            if (foreign, readable) != before:
                before = (foreign, readable)
                continue
            verdict = Verdict.STRANGER if readable else Verdict.UNKNOWN
            why = f"port {port} is served by {_name(foreign)}"
            if not readable:
                why += ", and the descriptors of its own processes cannot all be read"
        return Identity(verdict, why, all(one.uid == uid for one in sockets), bool(listeners))
    return Identity(Verdict.UNKNOWN, f"the sockets on port {port} change too quickly")


def _not_held(sockets: list[Socket], leader: int, tree_pids: Callable[[], Iterable[int]]) -> tuple[list[Socket], bool]:
    """Those of *sockets* that no process of the tree holds, and whether the tree could be read."""
    if not sockets:
        return [], True
    readable = True
    seen: set[int] = set()
    for pids in (lambda: [leader], tree_pids):
        for pid in pids():
            if pid in seen:
                continue
            seen.add(pid)
            inodes = socket_inodes(pid)
            if inodes is None:
                readable = False
                continue
            sockets = [one for one in sockets if one.inode not in inodes]
            if not sockets:
                return [], readable
    return sockets, readable


def _name(sockets: list[Socket]) -> str:
    wanted = {one.inode for one in sockets}
    named = sorted({f"uid {one.uid}" for one in sockets})
    deadline = time.monotonic() + _NAMING_BUDGET
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        if not wanted or time.monotonic() > deadline:
            break
        held = wanted & (socket_inodes(int(entry)) or set())
        if held:
            wanted -= held
            named.append(f"pid {entry} ({_command(int(entry))})")
    return ", ".join(named)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return "?"
