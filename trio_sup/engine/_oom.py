"""Did memory run out? What the kernel says about a process that got a SIGKILL, and what the process wrote itself."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import attrs

# The first number is the priority and the facility: below 8 it is the kernel's, and not what a program has put there.
_RECORD = re.compile(rb"[0-7],\d+,(?P<microseconds>\d+),[^;]*;(?P<text>.*\bKilled process (?P<pid>\d+)\b.*)")
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC
"""The kernel's fixed number for it, as the inode of ``/proc/self/ns/pid``."""

_LOG_TIME = 0.1
"""Seconds for reading the kernel's log, which happens between two awaits."""

_CLOCK_SLACK = 1.0
_CLOCK_DRIFT = 2e-4
"""The clock of the kernel's log is not adjusted, as the monotonic one is: it may be off by so much."""

_MOST_QUOTED = 200

_SAYS_SO = re.compile(
    r"out.?of.?(?:device.?|host.?)?memory|MemoryError|cannot allocate memory|\bENOMEM\b|std::bad_alloc"
    r"|memory allocation of \d+ bytes failed|unable to allocate .* for an array|cudaErrorMemoryAllocation"
    r"|failed to allocate (?:memory|buffer|\d)",
    re.IGNORECASE,
)


@attrs.frozen
class Before:
    """How things stood before a launch: the counter, if there is one, and the monotonic clock."""

    killed: int | None
    at: float


@attrs.frozen
class Counter:
    """A count of processes that the kernel killed for want of memory: a line ``oom_kill N`` of a file."""

    path: Path
    whose: str

    def read(self) -> int | None:
        """The count, or None if there is none (any more)."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                data = b""
                while part := os.read(descriptor, 65536):
                    data += part
            finally:
                os.close(descriptor)
        except OSError:
            return None
        match = re.search(rb"^oom_kill (\d+)$", data, re.MULTILINE)
        return int(match[1]) if match else None


class OutOfMemoryWatch:
    """Compares what the kernel counts and logs before a launch and after an end.

    Each source is used where it is there: the counter of the control group that children are launched into (version 2
    or 1), else that of the whole machine; and the kernel's log where it may be read.

    Args:
        proc, kernel_log: Where these are, for tests.
        pid_namespace: The namespace in which pids are those of the kernel's log.
    """

    def __init__(
        self,
        proc: Path = Path("/proc"),
        kernel_log: Path = Path("/dev/kmsg"),
        pid_namespace: int = _INITIAL_PID_NAMESPACE,
    ) -> None:
        candidates = (*_counters_of_group(proc), Counter(proc / "vmstat", "the oom_kill counter of the whole machine"))
        self._counter = next((counter for counter in candidates if counter.read() is not None), None)
        try:
            same_pids = (proc / "self/ns/pid").stat().st_ino == pid_namespace
        except OSError:
            same_pids = False
        # A container's pid 7 is another process than the kernel's.
        self._kernel_log = kernel_log if same_pids else None

    @property
    def counter(self) -> Counter | None:
        """What is counted."""
        return self._counter

    def before(self) -> Before:
        """To be kept for the process that is launched next; one small read."""
        return Before(self._counter.read() if self._counter else None, time.monotonic())

    def evidence(self, pid: int, before: Before) -> str | None:
        """What speaks for it that the kernel killed *pid*, which got a SIGKILL that nobody here had sent."""
        found = []
        if (line := self._logged(pid, before.at)) is not None:
            found.append(f"the kernel's log says that it killed pid {pid} for want of memory: {_quoted(line)}")
        killed = self._counter.read() if self._counter else None
        if self._counter and killed is not None and before.killed is not None and killed > before.killed:
            rose = f"{self._counter.whose} rose from {before.killed} to {killed} while it ran"
            found.append(f"{rose}, and the SIGKILL came from nobody here")
        return "; ".join(found) or None

    def _logged(self, pid: int, since: float) -> str | None:
        """The line of the kernel's log that says so, if there is one that is no older than *since*."""
        if self._kernel_log is None:
            return None
        earliest = since - _CLOCK_SLACK - _CLOCK_DRIFT * since
        for record in _records(self._kernel_log):
            match = _RECORD.match(record)
            if match and int(match["pid"]) == pid and int(match["microseconds"]) / 1e6 >= earliest:
                return match["text"].decode(errors="replace")
        return None


def _records(path: Path) -> Iterator[bytes]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    give_up_at = time.monotonic() + _LOG_TIME
    rest = b""
    try:
        while time.monotonic() < give_up_at:
            try:
                data = os.read(descriptor, 8192)  # one record each time
            except BrokenPipeError:
                continue  # what was next has been overwritten
            except OSError:
                return  # no more, or not for us
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            yield from lines
    finally:
        os.close(descriptor)


def _counters_of_group(proc: Path) -> Iterator[Counter]:
    """Those of this process's own memory control group, which children are launched into; best first."""
    try:
        groups = (proc / "self/cgroup").read_text().splitlines()
        mounts = (proc / "self/mountinfo").read_text().splitlines()
    except (OSError, ValueError):
        return
    whose = "the oom_kill counter of its control group"
    for group in groups:
        number, _, rest = group.partition(":")
        controllers, _, name = rest.partition(":")
        unified = number == "0" and not controllers
        if not unified and "memory" not in controllers.split(","):
            continue
        for mount in mounts:
            place = _place(mount, name, unified=unified)
            if place is None:
                continue
            top, directory = place
            if not unified:
                yield Counter(directory / "memory.oom_control", whose)
                continue
            # Memory may be accounted for further up; each count is that of a group with all groups below it.
            for each in (directory, *directory.parents):
                yield Counter(each / "memory.events", whose)
                if each == top:
                    break


def _place(mount: str, group: str, *, unified: bool) -> tuple[Path, Path] | None:
    """Where a hierarchy is mounted, and where *group* is in it, if the line *mount* of mountinfo is about that."""
    mounted, _, source = mount.partition(" - ")
    fields, (kind, _, options) = mounted.split(), (*source.split(), "", "", "")[:3]
    if len(fields) < 5 or kind != ("cgroup2" if unified else "cgroup"):
        return None
    if not unified and "memory" not in options.split(","):
        return None
    root, top = _unescaped(fields[3]), Path(_unescaped(fields[4]))
    inside = group.removeprefix(root) if root != "/" and f"{group}/".startswith(f"{root}/") else group
    directory = Path(os.path.normpath(f"{top}/{inside.strip('/')}"))
    return (top, directory) if directory == top or top in directory.parents else None


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def hint_in(stderr: str) -> str | None:
    """What a process wrote last about want of memory, if it wrote of it at all: weaker than what the kernel says."""
    lines = [line for line in stderr.splitlines() if _SAYS_SO.search(line)]
    return f"it wrote: {_quoted(lines[-1])}" if lines else None


def _quoted(line: str) -> str:
    line = " ".join(line.split())
    return line if len(line) <= _MOST_QUOTED else f"{line[: _MOST_QUOTED - 1]}…"
