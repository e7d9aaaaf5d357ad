"""The built-in port strategies keep the contract."""

from __future__ import annotations

import pytest

from trio_sup.defaults._ports import AffinityPorts, EphemeralPorts, FixedPorts, LifoPorts
from trio_sup.strategies import PortStrategy
from trio_sup.testing.contracts import PortStrategyContract

pytestmark = pytest.mark.slow


class TestAffinity(PortStrategyContract):
    returns_after = 20.0
    quarantine = 15.0

    def make(self) -> PortStrategy:
        return AffinityPorts()


class TestAffinityInANarrowRange(PortStrategyContract):
    returns_after = 20.0
    quarantine = 15.0

    def make(self) -> PortStrategy:
        return AffinityPorts(range="21000-21005")


class TestLifo(PortStrategyContract):
    def make(self) -> PortStrategy:
        return LifoPorts()


class TestEphemeral(PortStrategyContract):
    returns_after = 20.0
    quarantine = 15.0

    def make(self) -> PortStrategy:
        return EphemeralPorts()


class TestFixed(PortStrategyContract):
    quarantine = 1e6

    def make(self) -> PortStrategy:
        return FixedPorts(ports={key.model: 22000 + number for number, key in enumerate(self.keys)})
