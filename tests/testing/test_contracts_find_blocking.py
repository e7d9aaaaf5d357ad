"""A strategy that blocks the event loop does not pass its contract."""

from __future__ import annotations

import time

import pytest

from trio_sup import BackendSpec
from trio_sup.strategies import Probe, ProbeTarget, StopPolicy, StopTarget
from trio_sup.testing.contracts import ProbeContract, StopPolicyContract
from trio_sup.testing.contracts._common import SYNCHRONOUS_LIMIT


class Blocks:
    """A stop policy and a probe that know nothing of Trio."""

    needs_listener = True
    speaks_grpc = False

    def budget(self, spec: BackendSpec) -> float:
        return spec.grace

    async def stop(self, target: StopTarget) -> None:
        target.signal()
        time.sleep(SYNCHRONOUS_LIMIT * 2)  # the vice under test

    async def check(self, target: ProbeTarget) -> None:
        time.sleep(SYNCHRONOUS_LIMIT * 2)  # the vice under test


def test_a_stop_policy_that_blocks_fails_its_contract() -> None:
    class Blocking(StopPolicyContract):
        def make(self) -> StopPolicy:
            return Blocks()

    with pytest.raises(AssertionError, match="everything else waits for it"):
        Blocking().test_it_blocks_nobody("ends at once")


def test_a_probe_that_blocks_fails_its_contract() -> None:
    class Blocking(ProbeContract):
        def make(self) -> Probe:
            return Blocks()

    with pytest.raises(AssertionError, match="everything else waits for it"):
        Blocking().test_it_blocks_nobody()
