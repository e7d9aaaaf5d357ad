"""The directory a run keeps its state in, and the lock that makes it the only one there."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import ConfigError, StateDirectoryInUse


def default_state_dir(config_path: Path) -> Path:
    """Where the state of a run with this configuration file belongs: one directory per file.

    Source: the XDG base directory specification, which tells to ignore a relative ``XDG_STATE_HOME``.
    """
    config_path = config_path.absolute()
    home = Path(os.environ.get("XDG_STATE_HOME", ""))
    if not home.is_absolute():
        home = Path.home() / ".local" / "state"
    digest = hashlib.sha256(os.fsencode(config_path)).hexdigest()[:8]
    return home / "trio-sup" / f"{config_path.stem}-{digest}"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Make the state directory *path* if need be (0700), and be the only one to use it for the length of the block.

    Raises:
        StateDirectoryInUse: Another runner uses it; nothing was changed.
        ConfigError: It cannot be made or written to.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be used as state directory: {error.strerror}"]) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateDirectoryInUse(str(path), _pid_in(descriptor)) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _pid_in(descriptor: int) -> int | None:
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() else None
