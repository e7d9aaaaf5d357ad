"""Locks of the kernel's on files and directories (``flock``): trying to get one, and who has it."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Sequence

import attrs


@attrs.frozen
class Holder:
    """A process that holds a lock, for messages: ``trio-sup (pid 123)``."""

    program: str
    pid: int

    def __str__(self) -> str:
        return f"{self.program} (pid {self.pid})"


def try_flock(opened: int, operation: int) -> bool:
    """Lock the open file or directory at once (``fcntl.LOCK_SH``, ``LOCK_EX``); false if somebody else keeps us out.

    Raises:
        OSError: Its file system has no such locks.
    """
    try:
        fcntl.flock(opened, operation | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EINTR):
            return False
        raise
    return True


def open_directory(path: os.PathLike[str] | str) -> int:
    """Open the directory itself at *path*, to lock it; a link there is refused.

    Raises:
        OSError: There is none.
    """
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def is_still(path: os.PathLike[str] | str, opened: int) -> bool:
    """Whether what was opened is what stands at *path*."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(opened))
    except FileNotFoundError:
        return False


def holders_of(opened: int) -> Sequence[Holder]:
    """Who holds a lock on the open file or directory, as far as that can be seen from here: not into other containers.

    A lock that was inherited is shown for the process that took it.
    """
    wanted = f"{_device_of(opened)}:{os.fstat(opened).st_ino}"
    found: dict[int, Holder] = {}
    try:
        with open("/proc/locks", encoding="ascii", errors="replace") as lines:
            for line in lines:
                # "1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF"; those who wait have "->" in the second place
                fields = line.split()
                if len(fields) > 5 and fields[1] == "FLOCK" and fields[5] == wanted and fields[4].isdigit():
                    pid = int(fields[4])
                    found[pid] = Holder(_program_of(pid), pid)
    except OSError:
        return ()
    return tuple(found[pid] for pid in sorted(found))


def _device_of(opened: int) -> str:
    """The device as /proc/locks writes it: that of the file system, which on some (btrfs) is not the file's own."""
    status = os.fstat(opened)
    numbers = os.major(status.st_dev), os.minor(status.st_dev)
    try:
        with open(f"/proc/self/fdinfo/{opened}", encoding="ascii") as info:
            mount = next(line.split()[1] for line in info if line.startswith("mnt_id:"))
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            device = next(fields[2] for fields in map(str.split, mounts) if fields[0] == mount)
        numbers = tuple(map(int, device.split(":", 1)))  # type: ignore[assignment]  # two of them
    except (OSError, StopIteration, ValueError, IndexError):
        pass
    return f"{numbers[0]:02x}:{numbers[1]:02x}"


def _program_of(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            command = [os.fsdecode(part) for part in file.read(4096).split(b"\0") if part]
        with open(f"/proc/{pid}/comm", "rb") as file:
            name = file.read().decode(errors="replace").strip()
    except OSError:
        return "a process"
    # What Python runs says more than that it is Python.
    if name.startswith("python") and len(command) > 1:
        script = command[2] if command[1] == "-m" and len(command) > 2 else command[1]
        if not script.startswith("-"):
            return os.path.basename(script).removesuffix(".py")
    return name or "a process"
