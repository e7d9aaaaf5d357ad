"""Which addresses are worth a try: one that has just failed is left alone for a while."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

COOL_DOWN = 600.0
"""Seconds for which an address that failed is passed over. Source: spec 7.2."""


@attrs.define
class CoolDowns:
    """When which address failed, so that a dead one is not waited for again and again.

    Args:
        now: A clock, in seconds.
        period: Seconds for which an address that failed is passed over.
    """

    _now: Callable[[], float]
    _period: float = COOL_DOWN
    _failed_at: dict[str, float] = attrs.field(init=False, factory=dict)

    def worth_a_try(self, addresses: Sequence[str]) -> Sequence[str]:
        """Those of *addresses* that are not cooling down, in their order; all, if all of them are."""
        return [address for address in addresses if not self.cooling(address)] or addresses

    def cooling(self, address: str) -> bool:
        """Whether *address* failed within the period. (A clock that was set back ends it.)"""
        failed_at = self._failed_at.get(address)
        return failed_at is not None and 0 <= self._now() - failed_at < self._period

    def failed(self, address: str) -> None:
        self._failed_at[address] = self._now()

    def succeeded(self, address: str) -> None:
        self._failed_at.pop(address, None)
