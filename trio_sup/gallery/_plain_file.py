"""Reading a file that must really be one, and not too large."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_plain_file(path: Path, most_bytes: int) -> tuple[bytes, os.stat_result]:
    """The content of the file at *path*, and its status. Blocks, but not on a pipe.

    Raises:
        OSError: It cannot be read, is a link or something else than a file, or has more than *most_bytes*.
    """
    with open(path, "rb", opener=_without_following_or_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a file", str(path))
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise OSError(errno.EFBIG, f"it is larger than {most_bytes} bytes", str(path))
    return content, status


def _without_following_or_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
