"""The built-in ways to keep an installation of a backend and its launches apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..hookspecs import hookimpl
from ..strategies import InstallLock
from ._file_lock import FileLock
from ._memory_lock import MemoryLock


@hookimpl(trylast=True)
def trio_sup_install_locks() -> Mapping[str, Callable[..., InstallLock]]:
    return {"file": FileLock, "memory": MemoryLock}
