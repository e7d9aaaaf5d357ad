"""A strategy that a configuration chooses, made to see whether that works."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..engine._plugins import Kind, Plugins
from ..errors import InvalidOptions, TrioSupError

Chosen = tuple[Kind, Any, str]
"""A strategy that is chosen: of which kind, the choice, and where it stands in its table."""


def make_or_explain(plugins: Plugins, kind: Kind, choice: Any, path: str) -> tuple[object | None, Sequence[str]]:
    """Make the strategy that stands at *path*; if that does not work, say why, with the path of each problem."""
    try:
        return plugins.make(kind, choice, path), ()
    except InvalidOptions as error:
        return None, error.problems
    except TrioSupError as error:
        return None, [f"{path}: {error}"]
