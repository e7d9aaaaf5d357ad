"""Vectors with values, found again by direction: pure data, no gRPC."""

from __future__ import annotations

import heapq
import math
import operator
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

_dot: Callable[[Sequence[float], Sequence[float]], float] = getattr(
    math, "sumprod", lambda left, right: sum(map(operator.mul, left, right))
)


class Entry(NamedTuple):
    key: array[float]  # float32, as it arrived
    value: bytes
    direction: array[float]  # float64, of length 1 (or 0 if the key is)


class Match(NamedTuple):
    entry: Entry
    similarity: float


class Vectors:
    """A table from vectors, all of one length, to bytes. Order of insertion decides between equals."""

    def __init__(self) -> None:
        self._entries: dict[bytes, Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def set(self, keys: Sequence[Iterable[float]], values: Sequence[bytes]) -> None:
        """Add or overwrite.

        Raises:
            ValueError: A vector is empty, not finite or of another length; or there are not as many values as keys.
                Nothing was changed.
        """
        if len(keys) != len(values):
            raise ValueError(f"{len(keys)} keys need as many values, got {len(values)}")
        added = {}
        length = self._length()
        for key, value in zip(keys, values, strict=True):
            vector = array("f", key)
            length = length or len(vector)
            added[_identity(vector)] = Entry(vector, value, _direction(vector, length))
        self._entries.update(added)

    def get(self, keys: Iterable[Iterable[float]]) -> list[Entry]:
        """The entries that are there, in the order asked for."""
        found = (self._entries.get(_identity(array("f", key))) for key in keys)
        return [entry for entry in found if entry is not None]

    def delete(self, keys: Iterable[Iterable[float]]) -> None:
        """Remove; what is not there is ignored."""
        for key in keys:
            self._entries.pop(_identity(array("f", key)), None)

    def search(self, key: Iterable[float], count: int) -> Callable[[], list[Match]]:
        """Prepare to find the *count* entries most similar to *key* by cosine, best first; calling it does the work.

        It works on the entries of this moment, so it may be called in another thread.

        Raises:
            ValueError: *count* is below 1, or the vector is empty, not finite or of another length.
        """
        if count < 1:
            raise ValueError(f"TopK must be at least 1, got {count}")
        vector = array("f", key)
        direction = _direction(vector, self._length() or len(vector))
        entries = list(self._entries.values())

        def find() -> list[Match]:
            matches = (Match(entry, _dot(direction, entry.direction)) for entry in entries)
            return heapq.nlargest(count, matches, key=operator.itemgetter(1))

        return find

    def _length(self) -> int:
        """Of every key; 0 while there is none."""
        return next((len(entry.key) for entry in self._entries.values()), 0)


def _identity(vector: array[float]) -> bytes:
    return array("f", (number + 0.0 for number in vector)).tobytes()  # -0.0 equals 0.0, but not in bytes


def _direction(vector: array[float], length: int) -> array[float]:
    if not vector:
        raise ValueError("a key must not be empty")
    if len(vector) != length:
        raise ValueError(f"all keys must have one length: {length}, got {len(vector)}")
    if not all(map(math.isfinite, vector)):
        raise ValueError("a key must consist of finite numbers")
    norm = math.hypot(*vector)
    return array("d", (number / norm for number in vector) if norm else vector)
