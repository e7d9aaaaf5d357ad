"""Processes as the kernel shows them in /proc, and signals that cannot hit a reused pid.

Standard library only, and importable without trio_sup: the helper guard loads it by path.
"""

from __future__ import annotations

import enum
import errno
import os
import signal
from collections.abc import Iterable
from typing import NamedTuple

MARKER = "TRIO_SUP_TREE"

_MARKER_PREFIX = f"{MARKER}=".encode()
# What /proc says of a process that has ended, or that is hidden from us. Anything else (no descriptor left, no
# memory) is not an answer, and must never pass for "it is gone".
_NOT_THERE = frozenset({errno.ENOENT, errno.ESRCH, errno.EACCES, errno.EPERM})
# Bytes of an environment that are read at once.
_PIECE = 65536
# How often an environment is looked at, if each look falls into another execve.
_LOOKS = 5
# How often a tree is looked at before it is killed although somebody of it does not stand still.
_MOST_LOOKS = 10


class Process(NamedTuple):
    """One process, as of one look at it.

    Attributes:
        state: The kernel's letter: ``R``, ``S``, ``D``, ``T``, ``Z`` and so on.
        started: When it was forked, in clock ticks since boot; with `pid` it names a process for good.
        threads: How many threads it has.
    """

    pid: int
    ppid: int
    pgrp: int
    session: int
    state: str
    started: int
    threads: int = 1

    @property
    def alive(self) -> bool:
        """Whether it still runs; a zombie does only if its main thread alone has ended."""
        return self.state not in "ZXx" or (self.state == "Z" and self.threads > 1)


def read_process(pid: int) -> Process | None:
    """Look at one process; None if there is none of that number (a zombie is still one).

    Raises:
        OSError: It could not be looked at, for want of descriptors or memory.
    """
    if (fields := _read_stat(pid, 20)) is None:
        return None
    return Process(
        pid, int(fields[1]), int(fields[2]), int(fields[3]), fields[0].decode(), int(fields[19]), int(fields[17])
    )


def _read_stat(pid: int | str, count: int) -> list[bytes] | None:
    """At least the first *count* fields of /proc/PID/stat that follow the name of the program.

    A thread can be named as well, as ``PID/task/TID``.
    """
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
        try:
            data = os.read(descriptor, 2048)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in _NOT_THERE:
            return None
        raise
    # The name may hold spaces and parentheses: the last parenthesis is the one that ends it.
    return data[data.rindex(b")") + 2 :].split(None, count)


def scan() -> list[Process]:
    """All processes, in one pass: whatever is alive when it returns is in it, or descends from one alive in it.

    The list of /proc is read again until it names nobody new. With a single reading, a process that forks and ends
    between being listed and being looked at (a daemon does) would leave a child that is in no list.

    Raises:
        OSError: Something could not be looked at, for want of descriptors or memory.
    """
    seen: dict[str, Process | None] = {}
    while True:
        new = [name for name in os.listdir("/proc") if name not in seen and name.isdecimal()]
        if not new:
            return [process for process in seen.values() if process is not None]
        for name in new:
            seen[name] = read_process(int(name))


def read_environment(pid: int | str) -> bytes | None:
    """The environment a process was executed with, NUL-separated; None if it is unreadable or the process gone.

    A thread can be named as well, as ``PID/task/TID``.

    Empty for a zombie, for a process executed with an empty environment, and for one that is inside execve (the child
    of a `Popen` that has just returned usually is). Cut short if the process calls execve meanwhile.

    Raises:
        OSError: It could not be looked at, for want of descriptors or memory.
    """
    parts = []
    try:
        descriptor = os.open(f"/proc/{pid}/environ", os.O_RDONLY)
        try:
            while part := os.read(descriptor, _PIECE):
                parts.append(part)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno == errno.ESRCH:
            return b""  # a zombie: there is no memory left to read from (older kernels say so by an empty file)
        if error.errno in _NOT_THERE or error.errno == errno.EIO:
            return None
        raise
    return b"".join(parts)


def markers_in(environment: bytes) -> tuple[str, ...]:
    """The entries ``<supervisor>/<attempt>`` of the marker in an environment, outermost supervisor first."""
    if _MARKER_PREFIX not in environment:
        return ()
    return tuple(
        entry
        for variable in environment.split(b"\0")
        if variable.startswith(_MARKER_PREFIX)
        for entry in variable[len(_MARKER_PREFIX) :].decode(errors="replace").split(":")
        if entry
    )


def visible_markers(pid: int) -> tuple[str, ...] | None:
    """The marker entries of a process; None if nobody can tell just now, and another pass over all is needed.

    That is while it is inside execve, where they cannot be seen; and when it has ended, because one that was alive
    when the processes were listed may have left a child since that is in no list (a daemon does).

    Raises:
        OSError: It could not be looked at, for want of descriptors or memory.
    """
    for _ in range(_LOOKS):
        environment = read_environment(pid)
        # One piece is read as a whole; between two of them an execve cuts the rest off.
        if environment is not None and 0 < len(environment) < _PIECE:
            return markers_in(environment)
        fields = _read_stat(pid, 49)
        if fields is None:
            return None
        if fields[0] in b"ZXx":
            return _markers_of_threads(pid) if int(fields[17]) > 1 else None
        if environment is None:
            return ()
        # Where the code of the program begins is set last, after the bounds of the environment. Those alone do not
        # tell: at first there are none, and then the end stands at the beginning until all entries have been counted.
        code_begins, environment_begins, environment_ends = fields[23], int(fields[47]), int(fields[48])
        if code_begins == b"0":
            return None
        if environment_ends - environment_begins == len(environment):
            return markers_in(environment)
    return None  # it does nothing but execute one program after the other


def _markers_of_threads(pid: int) -> tuple[str, ...] | None:
    """The marker entries of a process whose main thread has ended, which takes the environment out of its sight."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError as error:
        if error.errno in _NOT_THERE:
            return None
        raise
    for thread in threads:
        if markers := markers_in(read_environment(f"{pid}/task/{thread}") or b""):
            return markers
    return ()


def markers_of(pid: int) -> tuple[str, ...]:
    """The marker entries of a process; none if it has no marker, or its environment cannot be seen."""
    return visible_markers(pid) or ()


def command_of(pid: int) -> str:
    """What a process runs, for messages: its command line, else its name in brackets, at most 200 characters."""
    for name, shape in (("cmdline", "{}"), ("comm", "[{}]")):
        try:
            with open(f"/proc/{pid}/{name}", "rb") as file:
                text = file.read(4096).replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if text:
            return shape.format(text if len(text) <= 200 else f"{text[:199]}…")
    return "?"


class Delivery(enum.Enum):
    """What became of a signal."""

    DELIVERED = "delivered"
    GONE = "already gone"
    REFUSED = "not permitted"


def kill_exactly(process: Process, number: signal.Signals) -> Delivery:
    """Send a signal to this very process, never to another one that got its pid.

    Raises:
        OSError: It could not be tried, for want of descriptors or memory.
    """
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError as error:
        # EINVAL and ENOENT: the number now belongs to a thread of some process.
        if error.errno in (errno.ESRCH, errno.EINVAL, errno.ENOENT):
            return Delivery.GONE
        raise
    try:
        # The descriptor pins the process; comparing the start time after opening it leaves no gap.
        now = read_process(process.pid)
        if now is None or now.started != process.started or not now.alive:
            return Delivery.GONE
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return Delivery.GONE
    except PermissionError:
        return Delivery.REFUSED
    finally:
        os.close(descriptor)
    return Delivery.DELIVERED


class Freezer:
    """Stops a tree before it is killed, so that nobody of it can fork, nor lose the parent that links it to the others.

    A look at /proc takes a while. What is forked during that look is not in it, and if its parent is killed next, and
    it clears its environment and begins a session, then nothing tells any more whose it is. While its parent is merely
    stopped, the next look finds it.
    """

    def __init__(self) -> None:
        self._looks = 0
        self._dealt_with: set[tuple[int, int]] = set()
        self._settled: set[tuple[int, int]] = set()

    def stop(self, members: Iterable[Process]) -> bool:
        """Stop those of *members*, as of one look, that are new.

        Returns:
            Whether it is time to kill them: all stand still and none was new, or they had looks enough for that since
            it last was.

        Raises:
            OSError: It could not be tried, for want of descriptors or memory.
        """
        still = True
        for each in members:
            name = each.pid, each.started
            if name in self._settled:
                continue
            if name not in self._dealt_with:
                still = False
                if kill_exactly(each, signal.SIGSTOP) is Delivery.REFUSED:
                    self._settled.add(name)
                self._dealt_with.add(name)
            elif each.threads > 1:
                # Seen after the look, which may lack what one of them has just forked: the next look has it.
                still = False
                if _all_threads_stopped(each.pid):
                    self._settled.add(name)
            # A signal that is pending lets nobody begin to fork. Whoever waits inside the kernel may have begun before.
            elif each.state not in "TtZ":
                still = False
        # Counted in looks, since one alone takes long on a busy machine.
        self._looks = 0 if still or self._looks == _MOST_LOOKS else self._looks + 1
        return not self._looks


def _all_threads_stopped(pid: int) -> bool:
    """Whether no thread of a process can go on before it gets SIGCONT; also if the process has ended."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError as error:
        if error.errno in _NOT_THERE:
            return True
        raise
    states = (_read_stat(f"{pid}/task/{thread}", 1) for thread in threads)
    return all(fields is None or fields[0] in b"TtZX" for fields in states)


def with_descendants(roots: Iterable[Process], processes: Iterable[Process]) -> list[Process]:
    """*roots* and everything among *processes* whose chain of parents leads to one of them."""
    children: dict[int, list[Process]] = {}
    for process in processes:
        children.setdefault(process.ppid, []).append(process)
    found: dict[int, Process] = {}
    todo = list(roots)
    while todo:
        process = todo.pop()
        if process.pid not in found:
            found[process.pid] = process
            todo.extend(children.get(process.pid, ()))
    return list(found.values())
