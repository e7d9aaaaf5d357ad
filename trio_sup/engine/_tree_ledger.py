"""Which trees a supervisor has, on disk, so that the next one can end what a killed one has left.

One file for each supervisor. Its first line says who it is; the lines that follow come and go with its trees::

    supervisor <id> <boot id> <pid> <start time> <pid namespace>
    + <pid> <start time> <now>
    - <pid> <start time> <now>

Times are clock ticks since boot. A line that is torn, or unknown, is left out. The file is locked for the life of its
supervisor, which is a second way to tell that it lives.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

from ..guard._proc import read_process

_COMPACT_AT = 64 * 1024
"""Bytes after which the lines of trees that are gone are dropped."""

_LARGEST = 16 * 1024 * 1024
_UNFINISHED = ".tmp"
_TICKS = os.sysconf("SC_CLK_TCK")


@attrs.frozen
class Supervisor:
    """Who a supervisor is: a pid and a start time mean one process, in one namespace, until the machine boots."""

    id: str
    boot_id: str
    pid: int
    started: int
    namespace: int

    @classmethod
    def here(cls, supervisor_id: str) -> Supervisor:
        """The one of that id in this process.

        Raises:
            OSError: The kernel does not tell.
        """
        process = read_process(os.getpid())
        if process is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"/proc/{os.getpid()}/stat")
        return cls(supervisor_id, boot_id(), process.pid, process.started, os.stat("/proc/self/ns/pid").st_ino)

    def lives(self) -> bool:
        """Whether its process is still there; only to be asked in its namespace, before the next boot."""
        process = read_process(self.pid)
        return process is not None and process.alive and process.started == self.started

    def line(self) -> str:
        return f"supervisor {self.id} {self.boot_id} {self.pid} {self.started} {self.namespace}\n"


@attrs.frozen
class Record:
    """What the file of one supervisor says.

    Attributes:
        leaders: Start time of each tree's first process, by pid.
        last_told: The instant of the last line: until then, at least, the numbers of the leaders meant these trees.
        locked: Whether somebody holds the file: the supervisor, or a process that it has forked. None if this file
            system has no locks.
    """

    path: Path
    supervisor: Supervisor
    leaders: dict[int, int]
    last_told: int
    locked: bool | None

    def is_of(self, boot: str, namespace: int) -> bool:
        """Whether its numbers mean something in that boot and namespace."""
        return (self.supervisor.boot_id, self.supervisor.namespace) == (boot, namespace)

    def in_use(self, here: bool) -> bool:
        """Whether its supervisor works on; *here* tells whether its numbers mean something to us."""
        if self.locked is False:
            return False  # also if its process lives: it may be another program by now
        return self.supervisor.lives() if here else self.locked is True


def boot_id() -> str:
    """What names the time since the machine was booted."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def now() -> int:
    """This instant, in clock ticks since boot, as start times are given."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS)


class TreeLedger:
    """The file of this supervisor; without a directory it only has the id.

    Writing never raises: *on_failure* is told, and the trees go on.
    """

    def __init__(self, on_failure: Callable[[Path, OSError], None] = lambda path, error: None) -> None:
        self.supervisor_id = secrets.token_hex(8)
        self._on_failure = on_failure
        self._leaders: dict[int, int] = {}
        self._path: Path | None = None
        self._file: io.FileIO | None = None
        self._me: Supervisor | None = None
        self._size = 0
        self._incomplete = False

    def open(self, directory: Path) -> None:
        """Begin a file in *directory*.

        Raises:
            OSError: That is not possible.
        """
        self._me = Supervisor.here(self.supervisor_id)
        self._path = directory / self.supervisor_id
        self._write_anew()

    def add(self, pid: int, started: int) -> None:
        """Tell of a tree: its leader's pid and start time. Never waits, never raises."""
        if started:  # without it the number alone would be left, and that is never enough
            self._leaders[pid] = started
            self._append(b"+", pid, started)

    def remove(self, pid: int) -> None:
        """Tell that a tree is gone. Never waits, never raises."""
        started = self._leaders.pop(pid, None)
        if started is not None:
            self._append(b"-", pid, started)

    def close(self) -> None:
        """End the file: it is removed, unless a tree is left that the next supervisor should know of."""
        path, self._path = self._path, None
        if self._file is not None and path is not None:
            if not self._leaders:
                with contextlib.suppress(OSError):
                    path.unlink()
            self._file.close()
            self._file = None

    def _append(self, sign: bytes, pid: int, started: int) -> None:
        if self._path is None:
            return
        try:
            # After a line that could not be written, or only in part, the next one must not be glued to it.
            if self._file is None or self._incomplete or self._size > _COMPACT_AT + 64 * len(self._leaders):
                self._write_anew()
                return
            line = b"%b %d %d %d\n" % (sign, pid, started, now())
            self._incomplete = True
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
            self._incomplete = False
            self._size += len(line)
        except OSError as error:
            self._on_failure(self._path, error)

    def _write_anew(self) -> None:
        """Put a file with what counts now in the place of the one that is there."""
        assert self._path is not None
        assert self._me is not None
        lines = [self._me.line(), *(f"+ {pid} {started} {now()}\n" for pid, started in self._leaders.items())]
        data = "".join(lines).encode()
        unfinished = self._path.with_name(self._path.name + _UNFINISHED)
        file = io.FileIO(unfinished, "ab", opener=_open_to_write)
        try:
            # Locked before it has its name: whoever sees it sees it locked.
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(unfinished))
            os.replace(unfinished, self._path)
        except BaseException:
            file.close()
            with contextlib.suppress(OSError):
                os.unlink(unfinished)
            raise
        if self._file is not None:
            self._file.close()
        self._file, self._size, self._incomplete = file, len(data), False


def records_in(directory: Path, on_problem: Callable[[Path, str], None]) -> Iterator[Record]:
    """The files of all supervisors that have not taken theirs away; *on_problem* is told which ones are none.

    Raises:
        OSError: The directory cannot be read.
    """
    for name in sorted(os.listdir(directory)):
        path = directory / name
        if name.endswith(_UNFINISHED):
            # Its supervisor was killed before the file had its name, and so before it had a tree.
            with contextlib.suppress(OSError):
                path.unlink()
            continue
        try:
            record = _read(path)
        except (OSError, ValueError) as error:
            on_problem(path, str(error))
        else:
            yield record


def _read(path: Path) -> Record:
    locked: bool | None = False
    with open(path, "rb", opener=_open_to_read) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            locked = True if error.errno in (errno.EAGAIN, errno.EACCES) else None
        first, *lines = file.read(_LARGEST).split(b"\n")[:-1] or [b""]
    match first.decode("ascii").split():
        case ["supervisor", supervisor_id, boot, pid, started, namespace]:
            supervisor = Supervisor(supervisor_id, boot, int(pid), int(started), int(namespace))
        case _:
            raise ValueError("it does not say whose it is")
    leaders: dict[int, int] = {}
    last_told = 0
    for line in lines:
        try:
            sign, *numbers = line.split()
            number, started_at, told = map(int, numbers)
        except ValueError:
            continue
        last_told = max(last_told, told)
        if sign == b"+":
            leaders[number] = started_at
        elif sign == b"-" and leaders.get(number) == started_at:
            del leaders[number]
    return Record(path, supervisor, leaders, last_told, locked)


def _open_to_read(path: str, flags: int) -> int:
    # Not to hang at a pipe that somebody has put there.
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)


def _open_to_write(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
