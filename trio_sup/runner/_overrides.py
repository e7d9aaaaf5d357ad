"""Settings from environment variables: `TRIO_SUP_BACKENDS__CHAT__REPLICAS=2` sets `backends.chat.replicas`."""

from __future__ import annotations

import functools
import re
import tomllib
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from .._structuring import below
from .._values import Choice
from ..engine._loading import NO_AUTOLOAD
from ..guard._proc import MARKER

PREFIX = "TRIO_SUP_"
NOT_SETTINGS = frozenset({MARKER, NO_AUTOLOAD})

_MORE: Mapping[tuple[str, ...], str] = {(): ", backends__NAME__…"}
_STRATEGY = ("ports", "install_lock", "stop_policy", "restart_policy", "probe")


@attrs.define
class Overrides:
    """What the environment variables changed.

    Attributes:
        problems: Those that name nothing known.
        sources: Path of each setting that was changed, and the variable that did it.
    """

    problems: list[str] = attrs.field(factory=list)
    sources: dict[str, str] = attrs.field(factory=dict)

    def attribute(self, problem: str) -> str:
        """Add to *problem* which variable caused it, if one did."""
        for path, variable in self.sources.items():
            if re.match(rf"{re.escape(path)}(?![\w-])", problem):
                return f"{problem} (from {variable})"
        return problem


def path_of(*keys: str) -> str:
    """How problems name the place that *keys* lead to."""
    return functools.reduce(below, keys, "")


Known = Mapping[tuple[str, ...], type]
"""Where settings are known: the attrs class of the table at each path, with ``*`` for the name of a backend.

Paths of one key are the sections of plugins.
"""


def apply_overrides(table: dict[str, Any], environ: Mapping[str, str], known: Known) -> Overrides:
    """Write the settings found in *environ* into *table*, in place.

    Names are matched without regard to case, those of backends also with ``-``, ``.`` and ``+`` written ``_``.
    A value is read as a TOML value, and as text if it is none or if the setting is a text.
    """
    overrides = Overrides()
    for variable in sorted(environ):
        if variable.startswith(PREFIX) and variable not in NOT_SETTINGS:
            try:
                path = tuple(_path(variable.removeprefix(PREFIX), table, known))
                _set(table, path, _value(environ[variable], path, known), known)
            except _NamesNothing as error:
                overrides.problems.append(f"{variable}: {error}")
            else:
                overrides.sources[path_of(*path)] = variable
    return overrides


class _NamesNothing(Exception):
    pass


def _path(rest: str, table: Mapping[str, Any], known: Known) -> Iterator[str]:
    """The keys that lead to the setting which *rest* names."""
    place: tuple[str, ...] = ()
    if rest.lower().startswith("backends__"):
        name, rest = _backend(rest[len("backends__") :], table.get("backends"))
        yield from ("backends", name)
        place = ("backends", "*")
    while place in known:
        head, _, rest = rest.partition("__")
        head = head.lower()
        names = [field.name for field in attrs.fields(known[place]) if field.name != "name"]
        names += [inner[-1] for inner in known if len(inner) == 1 and not place]
        if head not in names:
            raise _NamesNothing(f"there is no such setting; known here are {', '.join(names)}{_MORE.get(place, '')}")
        yield head
        place = (*place, head)
        if not rest:
            return
    # Below that are names that others choose: of options (small letters) and of environment variables (as they are).
    yield from [rest] if place[-1] == "env" else rest.lower().split("__")


def _backend(rest: str, backends: object) -> tuple[str, str]:
    names = list(backends) if isinstance(backends, Mapping) else []
    found = [name for name in names if rest.lower().startswith(_folded(name) + "__")]
    # A name may itself contain "__": the longest one is meant, unless two are written alike.
    longest = [name for name in found if len(name) == max(map(len, found))]
    if len(longest) > 1:
        raise _NamesNothing(f"it could mean each of the backends {', '.join(longest)}")
    if not longest:
        raise _NamesNothing(f"no such setting of a backend; the file has the backends {', '.join(names) or '(none)'}")
    return longest[0], rest[len(longest[0]) + 2 :]


def _folded(name: str) -> str:
    return re.sub(r"[-.+]", "_", name).lower()


def _value(text: str, path: tuple[str, ...], known: Known) -> Any:
    if path[2:3] == ("env",) or _is_text(path, known):
        return text
    try:
        document = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return document["value"] if len(document) == 1 else text


def _place(path: tuple[str, ...]) -> tuple[str, ...]:
    return ("backends", "*", *path[2:]) if path[0] == "backends" and len(path) > 1 else path


def _is_text(path: tuple[str, ...], known: Known) -> bool:
    *parent, name = _place(path)
    owner = known.get(tuple(parent))
    hints = typing.get_type_hints(owner) if owner else {}
    return hints.get(name) in (str, str | None, Path, Path | None)


def _set(table: dict[str, Any], path: tuple[str, ...], value: Any, known: Known) -> None:
    for depth, key in enumerate(path[:-1], start=1):
        inner = table.get(key)
        if inner is None and key in _STRATEGY:
            inner = _default_strategy(path[:depth], known)
        if isinstance(inner, str) and key in _STRATEGY:
            inner = {"strategy": inner}
        if inner is None:
            inner = {}
        if not isinstance(inner, dict):
            raise _NamesNothing(f"{path_of(*path[:depth])} is not a table")
        table[key] = dict(inner)
        table = table[key]
    table[path[-1]] = value


def _default_strategy(path: tuple[str, ...], known: Known) -> str | None:
    *parent, name = _place(path)
    default = attrs.fields_dict(known[tuple(parent)])[name].default
    return default.name if isinstance(default, Choice) else None
