"""The built-in install locks keep the contract."""

from __future__ import annotations

import pytest

from trio_sup.defaults._file_lock import FileLock
from trio_sup.defaults._memory_lock import MemoryLock
from trio_sup.strategies import InstallLock
from trio_sup.testing.contracts import InstallLockContract

pytestmark = pytest.mark.slow


class TestFileLock(InstallLockContract):
    between_processes = True

    def make(self) -> InstallLock:
        return FileLock(self.directory)


class TestMemoryLock(InstallLockContract):
    def make(self) -> InstallLock:
        return MemoryLock()
