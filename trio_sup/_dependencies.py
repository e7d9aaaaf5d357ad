"""Which backend needs which: looked up by name, and searched for circles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ._resolution import resolve
from ._values import BackendSpec, ProcessKey


def needs_met_by(
    spec: BackendSpec, among: Iterable[tuple[ProcessKey, BackendSpec]]
) -> dict[str, tuple[ProcessKey, ...]]:
    """For each thing that *spec* needs, the keys of *among* any of which meets that need when it is ready."""
    slots = list(among)
    return {need: resolve(need, slots) for need in spec.needs}


def find_cycle(specs: Mapping[ProcessKey, BackendSpec]) -> tuple[str, ...] | None:
    """A circle of keys each of which needs the next, the first one repeated at the end; None if there is none.

    A backend that needs a name which also means itself needs the others of that name only; if there are none, it is a
    circle of its own.
    """
    edges: dict[ProcessKey, list[ProcessKey]] = {}
    for key, spec in specs.items():
        edges[key] = []
        for met_by in needs_met_by(spec, specs.items()).values():
            edges[key] += [other for other in met_by if other != key] or list(met_by)
    done: set[ProcessKey] = set()
    for start in edges:
        path: list[ProcessKey] = []
        stack = [(start, iter(edges[start]))] if start not in done else []
        path += [start] if stack else []
        while stack:
            key, rest = stack[-1]
            following = next(rest, None)
            if following is None:
                stack.pop()
                path.pop()
                done.add(key)
            elif following in path:
                return tuple(map(str, [*path[path.index(following) :], following]))
            elif following not in done:
                stack.append((following, iter(edges[following])))
                path.append(following)
    return None
