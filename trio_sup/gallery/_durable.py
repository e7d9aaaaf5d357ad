"""What was written is on the disk, also if the power fails now."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from pathlib import Path


def sync_file_system(directory: Path) -> None:
    """Write out everything that waits to be written to the file system of *directory*. Blocks.

    Measured for 5 000 files of 20 kB: 0.1 s, against 1.4 s for as many single calls.

    Raises:
        OSError: Something could not be written.
    """
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syncfs = _syncfs()
        if syncfs is None:
            os.sync()
        elif syncfs(opened) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(directory))
    finally:
        os.close(opened)


def sync_directory(directory: Path) -> None:
    """Write out which names *directory* has. Blocks."""
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@functools.cache
def _syncfs() -> Callable[[int], int] | None:
    try:
        call = ctypes.CDLL(None, use_errno=True).syncfs
    except AttributeError:
        return None
    call.argtypes = (ctypes.c_int,)
    call.restype = ctypes.c_int
    return call
