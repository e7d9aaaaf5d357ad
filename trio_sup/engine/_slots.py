"""All slots of one supervisor, what is defined for them, and a way to wait for a change of any of them."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator, Sequence

import trio

from .._resolution import resolve
from .._values import BackendSpec, ProcessKey
from ..errors import UnknownBackend
from ._slot import Attempt, Slot

MOST_MEANINGS = 1000
"""Identifiers that are remembered, with what they mean; anybody may ask for any."""


class Changes:
    """Wakes whoever waits for the next change: look first, then wait, with no await between."""

    def __init__(self) -> None:
        self._waiting: dict[str | None, set[trio.Event]] = {}

    def happened(self, *names: str) -> None:
        """Something has changed about what goes by any of *names*."""
        if self._waiting:
            for name in (None, *names):
                for event in self._waiting.get(name, ()):
                    event.set()

    async def next(self, *names: str) -> None:
        """Wait until something has changed; with *names*, only until it has about what goes by any of them.

        Cancellation: leaves nothing behind.
        """
        event = trio.Event()
        places = names or (None,)
        for name in places:
            self._waiting.setdefault(name, set()).add(event)
        try:
            await event.wait()
        finally:
            for name in places:
                self._waiting[name].discard(event)
                if not self._waiting[name]:
                    del self._waiting[name]


class SlotTable:
    """The slots that are not gone, by key.

    Attributes:
        defined: What each key is started from when only its name is given, in the order of their first definition;
            changed by `define` and `undefine`.
        changes: Happen whenever a slot moves, under all names that mean it, or when anything else changes that others
            wait for.
    """

    def __init__(self) -> None:
        self.defined: dict[ProcessKey, BackendSpec] = {}
        self.changes = Changes()
        self._slots: dict[ProcessKey, Slot] = {}
        self._ordinals: dict[ProcessKey, int] = {}
        self._next_ordinal = itertools.count()
        self._meanings: dict[str, tuple[ProcessKey, ...]] = {}

    def __iter__(self) -> Iterator[Slot]:
        return iter(tuple(self._slots.values()))

    def get(self, key: ProcessKey) -> Slot | None:
        return self._slots.get(key)

    def __getitem__(self, key: ProcessKey) -> Slot:
        return self._slots[key]

    def define(self, key: ProcessKey, spec: BackendSpec) -> None:
        """Note what *key* is to be started from, and wake those who wait for something of its name."""
        self.defined[key] = spec
        self._ordinal(key)
        self.changes.happened(str(key), key.model, *spec.names())

    def undefine(self, key: ProcessKey) -> None:
        """Forget what *key* is to be started from."""
        self.defined.pop(key, None)
        self._ordinals.pop(key, None)

    def _ordinal(self, key: ProcessKey) -> int:
        if key not in self._ordinals:
            self._ordinals[key] = next(self._next_ordinal)
        return self._ordinals[key]

    def add(self, slot: Slot) -> None:
        slot.ordinal = self._ordinal(slot.key)
        self._slots[slot.key] = slot
        self._meanings.clear()

    def remove(self, slot: Slot) -> None:
        del self._slots[slot.key]
        self._meanings.clear()

    def begin(self, slot: Slot, attempt: Attempt) -> None:
        """Let *attempt* be the current one of *slot*."""
        if attempt.spec is not slot.spec:
            self._meanings.clear()  # it may go by other names
        slot.attempt = attempt

    def changed(self, slot: Slot) -> None:
        """Wake those who wait for a change of *slot*."""
        self.changes.happened(str(slot.key), slot.key.model, *slot.spec.names())

    def resolve(self, identifier: str) -> tuple[ProcessKey, ...]:
        """The keys of slots that *identifier* means."""
        found = self._meanings.get(identifier)
        if found is None:
            found = resolve(identifier, ((slot.key, slot.spec) for slot in self))
            if len(self._meanings) >= MOST_MEANINGS:
                self._meanings.clear()
            self._meanings[identifier] = found
        return found

    def meant_by(self, identifier: str) -> Sequence[Slot]:
        """The slots that *identifier* means."""
        return [self._slots[key] for key in self.resolve(identifier)]

    def definitions_of(self, identifier: str) -> tuple[ProcessKey, ...]:
        """The keys that *identifier* means among what is defined, whether it runs or not."""
        return resolve(identifier, self.defined.items())

    def unknown(self, identifier: str) -> UnknownBackend:
        """An error that says which names would be known."""
        names = {name for key, spec in self.defined.items() for name in (_called(key), *spec.names())}
        known = sorted(names) if len(names) <= 20 else difflib.get_close_matches(identifier, sorted(names), n=20)
        return UnknownBackend(identifier, known)


def _called(key: ProcessKey) -> str:
    """The shortest name that means *key*."""
    return str(key) if "#" in key.model else key.model
