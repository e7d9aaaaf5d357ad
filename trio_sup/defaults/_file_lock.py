"""The install lock between processes, and between the tasks of one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from ..errors import InvalidValue, TrioSupError
from ..gallery._flocks import holders_of, is_still, try_flock
from ..strategies import complaints_name_fields

FIRST_WAIT, LONGEST_WAIT = 0.005, 0.05
"""Seconds between two tries while somebody else holds the lock; the wait grows from the one to the other."""


@attrs.define(slots=False, eq=False)
class UnsafeLockDirectory(TrioSupError):
    """Somebody else could tamper with the locks in this directory."""

    path: Path
    why: str

    def __str__(self) -> str:
        return f"{self.path} cannot be used for locks: {self.why}. Remove it, or give another directory."


def _to_directory(value: object) -> Path | None:
    if value is not None and not (isinstance(value, (str, os.PathLike)) and str(value)):
        raise InvalidValue(value, "expected a path")
    return None if value is None else Path(value)


@attrs.frozen(field_transformer=complaints_name_fields)
class FileLock:
    """A lock file per backend, locked with ``flock``; the kernel frees it when its holder dies, however it dies.

    The file is removed by the last holder. Those who wait ask again every few milliseconds, so the order is not
    kept, and an installation waits until no launch overlaps it.

    Args:
        directory: Where the files are. All processes that share backends must name the same one. By default
            ``$XDG_RUNTIME_DIR/trio-sup/locks``, else ``trio-sup-UID/locks`` in the directory for temporary files.
    """

    directory: Path | None = attrs.field(default=None, converter=_to_directory)

    @asynccontextmanager
    async def hold(self, backend: str, *, shared: bool) -> AsyncIterator[None]:
        """Hold the lock of *backend* for the length of the block.

        Raises:
            InvalidValue: *backend* cannot be the name of a file.
            UnsafeLockDirectory: The directory belongs to somebody else, or is none.
            OSError: The directory or the file cannot be made.

        Cancellation: a wait that is cancelled leaves nothing behind.
        """
        await trio.lowlevel.checkpoint()
        path = self._directory() / _file_of(backend)
        held = await _acquire(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        try:
            yield
        finally:
            _release(held, path)

    def holders(self, backend: str) -> Sequence[str]:
        """Who holds the lock of *backend* now, as text such as ``trio-sup (pid 123)``; only those that can be seen from
        here. For messages."""
        try:
            path = (self.directory or self._directory()) / _file_of(backend)
            opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except (OSError, TrioSupError):
            return ()
        try:
            return tuple(map(str, holders_of(opened)))
        finally:
            os.close(opened)

    def _directory(self) -> Path:
        if self.directory is not None:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            return self.directory
        runtime = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
        # After `sudo -E` it is another user's.
        if runtime.is_absolute() and runtime.is_dir() and runtime.stat().st_uid == os.getuid():
            base = runtime / "trio-sup"
        else:
            base = Path(tempfile.gettempdir(), f"trio-sup-{os.getuid()}")
        # Outermost first: what is in a directory of ours nobody else can exchange.
        for directory in (base, base / "locks"):
            with contextlib.suppress(FileExistsError):
                directory.mkdir(mode=0o700)
            _refuse_unless_ours(directory)
        return base / "locks"


def _file_of(backend: str) -> str:
    if not backend or "/" in backend or "\0" in backend:
        raise InvalidValue(backend, "a backend's name must not be empty, nor contain / or NUL")
    return f"{backend}.lock"


def _refuse_unless_ours(directory: Path) -> None:
    status = directory.lstat()
    if stat.S_ISLNK(status.st_mode):
        raise UnsafeLockDirectory(directory, "it is a symbolic link")
    if not stat.S_ISDIR(status.st_mode):
        raise UnsafeLockDirectory(directory, "it is not a directory")
    if status.st_uid != os.getuid():
        raise UnsafeLockDirectory(directory, f"it belongs to another user (uid {status.st_uid})")
    if status.st_mode & 0o022:
        raise UnsafeLockDirectory(directory, f"others may write to it (mode {stat.S_IMODE(status.st_mode):o})")


async def _acquire(path: Path, operation: int) -> int:
    wait = FIRST_WAIT
    while True:
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            while not try_flock(opened, operation):
                await trio.sleep(wait)
                wait = min(wait * 1.5, LONGEST_WAIT)
            # The holder we waited for may have removed the file: then we hold something nobody else will ask for.
            if is_still(path, opened):
                return opened
        except BaseException:
            os.close(opened)
            raise
        os.close(opened)
        await trio.lowlevel.checkpoint()


def _release(held: int, path: Path) -> None:
    try:
        # Removed only by one who holds it alone: nobody else who got it can have passed the check in `_acquire`.
        # If this fails, somebody else holds it and will try the same. (flock lets go before it tries, so of two
        # who try at once, one succeeds.) The check is for a file that was removed, and made anew, by hand.
        if try_flock(held, fcntl.LOCK_EX) and is_still(path, held):
            path.unlink()
    except OSError:
        pass  # a file too many harms nobody
    finally:
        # Said explicitly: a child being forked right now has a copy of the descriptor until it executes.
        with contextlib.suppress(OSError):
            fcntl.flock(held, fcntl.LOCK_UN)
        os.close(held)
