"""Which backend needs which: looked up by name, and searched for circles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from ._values import BackendSpec, ProcessKey


def find_cycle(
    specs: Iterable[tuple[ProcessKey, BackendSpec]], *, of: ProcessKey | None = None
) -> tuple[str, ...] | None:
    """A circle of keys each of which needs the next, the first one repeated at the end; None if there is none.

    A backend that needs a name which also means itself needs the others of that name only; if there are none, it is a
    circle of its own.

    Args:
        specs: What each key is started from; a key that comes twice needs all that both of its specifications need.
        of: Look only at what this key needs, directly or by way of others.
    """
    edges = _edges(specs)
    done: set[ProcessKey] = set()
    for start in edges if of is None else [of]:
        cycle = _search(start, edges, done)
        if cycle is not None:
            return tuple(map(str, cycle))
    return None


def _edges(specs: Iterable[tuple[ProcessKey, BackendSpec]]) -> Mapping[ProcessKey, Sequence[ProcessKey]]:
    """The keys that each key needs."""
    slots = list(specs)
    meant: dict[str, dict[ProcessKey, None]] = {}  # by every name, in order; see `_resolution.resolve`
    for key, spec in slots:
        for name in (key.model, *spec.names()):
            meant.setdefault(name, {})[key] = None
    exact = {str(key): key for key, _ in slots}
    edges: dict[ProcessKey, dict[ProcessKey, None]] = {}
    for key, spec in slots:
        needed = edges.setdefault(key, {})
        for need in spec.needs:
            if need in exact or "#" in need:
                met_by = [exact[need]] if need in exact else []
            else:
                met_by = list(meant.get(need, ()))
            needed.update(dict.fromkeys([other for other in met_by if other != key] or met_by))
    return {key: list(needed) for key, needed in edges.items()}


def _search(
    start: ProcessKey, edges: Mapping[ProcessKey, Sequence[ProcessKey]], done: set[ProcessKey]
) -> Sequence[ProcessKey] | None:
    """A circle that can be reached from *start*; if there is none, all that was looked at is added to *done*."""
    if start in done:
        return None
    path: dict[ProcessKey, Iterator[ProcessKey]] = {start: iter(edges[start])}
    while path:
        key = next(reversed(path))
        following = next(path[key], None)
        if following is None:
            del path[key]
            done.add(key)
        elif following in path:
            around = list(path)
            return [*around[around.index(following) :], following]
        elif following not in done:
            path[following] = iter(edges[following])
    return None
