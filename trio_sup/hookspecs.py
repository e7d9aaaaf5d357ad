"""The hooks that plugins answer.

Each hook returns a mapping from a strategy's name to an attrs class (or any callable) that makes it; the keyword
arguments of that class are its options. When two plugins offer the same name, the one registered last wins, so any
plugin may replace a built-in. A hook must be quick and must not block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pluggy

from .strategies import InstallLock, PortStrategy, Probe, StopPolicy

hookspec = pluggy.HookspecMarker("trio_sup")
hookimpl = pluggy.HookimplMarker("trio_sup")


@hookspec
def trio_sup_port_strategies() -> Mapping[str, Callable[..., PortStrategy]]:  # type: ignore[empty-body]
    """Offer ways to choose a backend's port, by name. One object is made per supervisor."""


@hookspec
def trio_sup_install_locks() -> Mapping[str, Callable[..., InstallLock]]:  # type: ignore[empty-body]
    """Offer ways to keep installations and launches of one backend apart, by name. One object per supervisor."""


@hookspec
def trio_sup_stop_policies() -> Mapping[str, Callable[..., StopPolicy]]:  # type: ignore[empty-body]
    """Offer ways to ask a backend to end, by name. One object is made per specification that names it."""


@hookspec
def trio_sup_probes() -> Mapping[str, Callable[..., Probe]]:  # type: ignore[empty-body]
    """Offer ways to tell that a process may take calls, by name. One object per specification that names it."""
