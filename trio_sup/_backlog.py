"""What waits to be written: bounded in bytes, and whoever wrote most loses first."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

import attrs

Item = TypeVar("Item")

ITEM_COST = 256
"""What an entry costs besides its bytes, so that many tiny ones are bounded as well."""


@attrs.frozen
class Lost:
    """So many bytes of *source* were left out at this point."""

    source: Hashable
    count: int


@attrs.define
class _Source:
    numbers: deque[int] = attrs.field(factory=deque)
    cost: int = 0
    lost: int = 0


class Backlog(Generic[Item]):
    """An ordered queue that never holds more than *limit* bytes.

    Above that, the source that holds most of it loses its oldest entries: one that floods costs no other one a line.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._cost = 0
        self._next = 0
        self._entries: OrderedDict[int, tuple[Hashable, Item, int]] = OrderedDict()
        self._sources: dict[Hashable, _Source] = {}

    def __bool__(self) -> bool:
        return bool(self._entries)

    @property
    def cost(self) -> int:
        """Bytes of memory it takes, at most its limit."""
        return self._cost

    def put(self, source: Hashable, item: Item, size: int) -> None:
        owner = self._sources.setdefault(source, _Source())
        owner.numbers.append(self._next)
        self._entries[self._next] = source, item, size
        self._next += 1
        self._account(owner, size + ITEM_COST)
        while self._cost > self._limit:
            heaviest = max(self._sources.values(), key=lambda each: each.cost)
            _, _, size = self._entries.pop(heaviest.numbers.popleft())
            self._account(heaviest, -size - ITEM_COST)
            heaviest.lost += size

    def take(self, size: int) -> Iterator[Item | Lost]:
        """Take the oldest entries out, about *size* bytes of them; what was lost is told where it would have been."""
        while self._entries and size > 0:
            number, (source, item, item_size) = self._entries.popitem(last=False)
            owner = self._sources[source]
            assert owner.numbers.popleft() == number
            self._account(owner, -item_size - ITEM_COST)
            if owner.lost:
                yield Lost(source, owner.lost)
                owner.lost = 0
            if not owner.numbers:
                del self._sources[source]
            yield item
            size -= item_size + ITEM_COST
        for source, owner in tuple(self._sources.items()):
            if not owner.numbers:  # all it had was lost
                yield Lost(source, owner.lost)
                del self._sources[source]

    def _account(self, owner: _Source, cost: int) -> None:
        owner.cost += cost
        self._cost += cost
