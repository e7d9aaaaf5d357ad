"""Exchanging two things on one file system in one step, where the file system can do that."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

Exchange: TypeAlias = Callable[[Path, Path], bool]
"""Exchanges what stands at two paths; false, and nothing is changed, where that cannot be done in one step."""

AT_FDCWD = -100
NOREPLACE, EXCHANGE = 1, 2
# For C libraries that do not know the call. Source: the tables of the kernel.
_NUMBERS = {"x86_64": 316, "aarch64": 276, "riscv64": 276, "armv7l": 382, "i686": 353, "ppc64le": 357, "s390x": 347}
_UNABLE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


def exchange(first: Path, second: Path) -> bool:
    """Exchange what stands at *first* and *second*, whatever it is; nobody ever sees one of them missing.

    Returns:
        False if the file system, the kernel or the C library cannot do that; then nothing was changed.

    Raises:
        OSError: One of them is missing, or they are not on the same file system.
    """
    return _rename(first, second, EXCHANGE)


def move(source: Path, target: Path) -> None:
    """Rename *source* to *target*, where nothing is.

    Raises:
        FileExistsError: Something is there. (An empty directory may be replaced where the file system cannot tell.)
        OSError: It cannot be renamed.
    """
    if _rename(source, target, NOREPLACE):
        return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    os.rename(source, target)


def _rename(source: Path, target: Path, flag: int) -> bool:
    call = _renameat2()
    if call is None:
        return False
    if call(os.fsencode(source), os.fsencode(target), flag) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNABLE:
        return False
    raise OSError(number, os.strerror(number), str(source), None, str(target))


@functools.cache
def _renameat2() -> Callable[[bytes, bytes, int], int] | None:
    library = ctypes.CDLL(None, use_errno=True)
    path, number = ctypes.c_char_p, ctypes.c_int
    try:
        known = library.renameat2
    except AttributeError:
        return _by_number(library)
    known.argtypes = (number, path, number, path, ctypes.c_uint)
    known.restype = number
    return lambda source, target, flag: known(AT_FDCWD, source, AT_FDCWD, target, flag)


def _by_number(library: ctypes.CDLL) -> Callable[[bytes, bytes, int], int] | None:
    at = _NUMBERS.get(platform.machine())
    if at is None:
        return None
    call = library.syscall
    call.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    call.restype = ctypes.c_long
    return lambda source, target, flag: call(at, AT_FDCWD, source, AT_FDCWD, target, flag)
