"""The built-in stop policies keep the contract."""

from __future__ import annotations

import pytest

from trio_sup.defaults._stop_policies import Drain, FreeThenTerminate, Kill, Terminate
from trio_sup.strategies import StopPolicy
from trio_sup.testing.contracts import StopPolicyContract

pytestmark = pytest.mark.slow


class TestFreeThenTerminate(StopPolicyContract):
    def make(self) -> StopPolicy:
        return FreeThenTerminate(free_timeout=0.4)


class TestDrain(StopPolicyContract):
    def make(self) -> StopPolicy:
        return Drain(drain_timeout=2.5, free_timeout=0.4)


class TestTerminate(StopPolicyContract):
    def make(self) -> StopPolicy:
        return Terminate()


class TestKill(StopPolicyContract):
    def make(self) -> StopPolicy:
        return Kill()
