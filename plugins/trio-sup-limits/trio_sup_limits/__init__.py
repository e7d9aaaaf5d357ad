"""A launch preparation that limits what a backend may use and do: ``limits``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from trio_sup import hookimpl
from trio_sup.strategies import LaunchPreparation

from ._limits import Limits

__all__ = ["Limits", "trio_sup_launch_preparations"]


@hookimpl
def trio_sup_launch_preparations() -> Mapping[str, Callable[..., LaunchPreparation]]:
    """What this plugin offers, by name."""
    return {"limits": Limits}
