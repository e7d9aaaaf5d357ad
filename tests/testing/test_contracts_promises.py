"""A test of a contract that holds only for a promise is there for those who make it, and for nobody else."""

from __future__ import annotations

from typing import ClassVar

import pytest

from trio_sup.testing.contracts import InstallLockContract, PortStrategyContract

pytestmark = pytest.mark.slow


class PromisesNothing(PortStrategyContract):
    returns_after = None


class PromisesQuarantine(PromisesNothing):
    quarantine: ClassVar[float | None] = 0.0


class TakesItBack(PromisesQuarantine):
    quarantine = None


class BetweenProcesses(InstallLockContract):
    between_processes = True


class Overriding(PromisesNothing):
    def test_a_released_port_is_in_quarantine(self, fraction: float) -> None:
        """One of its own."""


def has(cls: type, name: str) -> bool:
    return callable(getattr(cls, name))


def test_who_promises_something_is_tested_for_it() -> None:
    assert has(PromisesQuarantine, "test_a_released_port_is_in_quarantine")
    assert has(BetweenProcesses, "test_another_process_is_kept_out_likewise")
    assert has(BetweenProcesses, "test_a_holder_that_is_killed_frees_it")


def test_who_does_not_is_not() -> None:
    assert not has(PromisesNothing, "test_a_released_port_is_in_quarantine")
    assert not has(PromisesNothing, "test_a_released_port_comes_back_to_its_key")
    assert not has(TakesItBack, "test_a_released_port_is_in_quarantine")


def test_a_test_of_ones_own_stays() -> None:
    assert Overriding.test_a_released_port_is_in_quarantine.__doc__ == "One of its own."
