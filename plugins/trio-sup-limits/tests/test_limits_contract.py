"""The contract that every launch preparation keeps."""

from __future__ import annotations

from trio_sup_limits import Limits

from trio_sup.strategies import LaunchPreparation
from trio_sup.testing.contracts import LaunchPreparationContract


class TestLimits(LaunchPreparationContract):
    def make(self) -> LaunchPreparation:
        return Limits(core=0, nofile=["256", 256], umask="077", no_new_privileges=True, drop_env=["NOT_THERE_*"])
