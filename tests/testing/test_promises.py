"""What a contract class promises decides which tests its strategy gets."""

from __future__ import annotations

from typing import ClassVar

import pytest

from trio_sup.testing.contracts._common import StrategyContract, if_promised


@if_promised("speed")
def is_fast(self: StrategyContract) -> None:
    raise NotImplementedError


class Contract(StrategyContract):
    speed: ClassVar[float | None] = None
    test_it_is_fast = is_fast


class Promises(Contract):
    speed: ClassVar[float | None] = 0.0


class PromisesNothing(Contract):
    pass


class TakesItBack(Promises):
    speed: ClassVar[float | None] = None


class PromisesAgain(TakesItBack):
    speed: ClassVar[float | None] = 3.0


class HasItsOwn(TakesItBack):
    speed: ClassVar[float | None] = 3.0

    def test_it_is_fast(self) -> None:
        """Written for this one alone."""


@pytest.mark.parametrize("cls", [Promises, PromisesAgain])
def test_what_is_promised_is_tested(cls: type[Contract]) -> None:
    assert cls.test_it_is_fast is is_fast


@pytest.mark.parametrize("cls", [PromisesNothing, TakesItBack])
def test_what_is_not_promised_is_not_tested(cls: type[Contract]) -> None:
    assert cls.test_it_is_fast is None


def test_a_class_may_have_its_own_form_of_a_test() -> None:
    assert HasItsOwn.test_it_is_fast is not is_fast
    assert HasItsOwn.test_it_is_fast is not None
