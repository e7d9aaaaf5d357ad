"""All slots of one supervisor, what is defined for them, and a way to wait for a change of any of them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

import trio

from .._resolution import resolve
from .._values import BackendSpec, ProcessKey
from ..errors import UnknownBackend
from ._slot import Slot


class Changes:
    """Wakes whoever waits for the next change: look first, then wait, with no await between."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def happened(self) -> None:
        if self._event.statistics().tasks_waiting:
            self._event.set()
            self._event = trio.Event()

    async def next(self) -> None:
        """Wait until something has changed. Cancellation: leaves nothing behind."""
        await self._event.wait()


class SlotTable:
    """The slots that are not gone, by key.

    Attributes:
        defined: What each key is started from when only its name is given, in the order of their first definition.
        changes: Happen whenever a slot moves, or anything else that others wait for changes.
    """

    def __init__(self) -> None:
        self.defined: dict[ProcessKey, BackendSpec] = {}
        self.changes = Changes()
        self._slots: dict[ProcessKey, Slot] = {}
        self._ordinals: dict[ProcessKey, int] = {}

    def __iter__(self) -> Iterator[Slot]:
        return iter(tuple(self._slots.values()))

    def get(self, key: ProcessKey) -> Slot | None:
        return self._slots.get(key)

    def __getitem__(self, key: ProcessKey) -> Slot:
        return self._slots[key]

    def define(self, key: ProcessKey, spec: BackendSpec) -> None:
        """Note what *key* is to be started from."""
        self.defined[key] = spec
        self._ordinals.setdefault(key, len(self._ordinals))

    def add(self, slot: Slot) -> None:
        slot.ordinal = self._ordinals.setdefault(slot.key, len(self._ordinals))
        self._slots[slot.key] = slot

    def remove(self, slot: Slot) -> None:
        del self._slots[slot.key]

    def resolve(self, identifier: ProcessKey | str) -> tuple[ProcessKey, ...]:
        """The keys of slots that *identifier* means."""
        return resolve(str(identifier), ((slot.key, slot.spec) for slot in self))

    def meant_by(self, identifier: str) -> Sequence[Slot]:
        """The slots that *identifier* means."""
        return [self._slots[key] for key in self.resolve(identifier)]

    def definitions_of(self, identifier: str) -> tuple[ProcessKey, ...]:
        """The keys that *identifier* means among what is defined, whether it runs or not."""
        return resolve(identifier, self.defined.items())

    def unknown(self, identifier: str) -> UnknownBackend:
        """An error that says which names would be known."""
        names = {name for key, spec in self.defined.items() for name in (key.model, *spec.names())}
        known = sorted(names) if len(names) <= 20 else difflib.get_close_matches(identifier, sorted(names), n=20)
        return UnknownBackend(identifier, known)
