"""Which slots an identifier means."""

from __future__ import annotations

from collections.abc import Iterable

from ._values import BackendSpec, ProcessKey


def resolve(identifier: str, slots: Iterable[tuple[ProcessKey, BackendSpec]]) -> tuple[ProcessKey, ...]:
    """The keys that *identifier* means, sorted.

    An exact key means itself. Anything else with a ``#`` means nothing: there is no fallback to siblings. A bare
    name means all replicas of the model of that name, and all processes of the backend of that name or alias.

    Source: the LocalAI worker's stop target (behaviours B12, B13, B25-B29).
    """
    slots = list(slots)
    exact = tuple(key for key, _ in slots if str(key) == identifier)
    if exact or "#" in identifier:
        return exact
    return tuple(sorted(key for key, spec in slots if identifier == key.model or identifier in spec.names()))
