"""The contract that every stop policy keeps."""

from __future__ import annotations

from trio_sup_example import HangUpFirst

from trio_sup.strategies import StopPolicy
from trio_sup.testing.contracts import StopPolicyContract


class TestHangUpFirst(StopPolicyContract):
    def make(self) -> StopPolicy:
        return HangUpFirst()
