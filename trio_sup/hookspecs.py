"""The hooks that plugins answer.

Each hook returns a mapping from a strategy's name to an attrs class (or any callable) that makes it; the keyword
arguments of that class are its options. When two plugins offer the same name, the one registered last wins, so any
plugin may replace a built-in. A hook must be quick and must not block.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pluggy

from .strategies import (
    GallerySource,
    InstallLock,
    LaunchPreparation,
    Observer,
    PortStrategy,
    Probe,
    RestartPolicy,
    Service,
    StopPolicy,
    WarmUp,
)

HOOK_VERSION = 1
"""Version of these hooks; a plugin may say in `trio_sup_hook_version` which one it was built for."""

hookspec = pluggy.HookspecMarker("trio_sup")
hookimpl = pluggy.HookimplMarker("trio_sup")


@hookspec
def trio_sup_port_strategies() -> Mapping[str, Callable[..., PortStrategy]]:  # type: ignore[empty-body]
    """Offer ways to choose a backend's port, by name. One object is made per supervisor for each different choice."""


@hookspec
def trio_sup_install_locks() -> Mapping[str, Callable[..., InstallLock]]:  # type: ignore[empty-body]
    """Offer ways to keep installations and launches of one backend apart, by name. One object per supervisor."""


@hookspec
def trio_sup_stop_policies() -> Mapping[str, Callable[..., StopPolicy]]:  # type: ignore[empty-body]
    """Offer ways to ask a backend to end, by name. One object is made per specification that names it."""


@hookspec
def trio_sup_probes() -> Mapping[str, Callable[..., Probe]]:  # type: ignore[empty-body]
    """Offer ways to tell that a process may take calls, or still lives, by name. One object per use of the name."""


@hookspec
def trio_sup_restart_policies() -> Mapping[str, Callable[..., RestartPolicy]]:  # type: ignore[empty-body]
    """Offer ways to decide what follows an unasked end, by name. One object per specification that names it."""


@hookspec
def trio_sup_warm_ups() -> Mapping[str, Callable[..., WarmUp]]:  # type: ignore[empty-body]
    """Offer what can be done between a start and READY, by name. One object per specification that names it."""


@hookspec
def trio_sup_launch_preparations() -> Mapping[str, Callable[..., LaunchPreparation]]:  # type: ignore[empty-body]
    """Offer ways to change what is executed, by name. One object is made per specification that names it."""


@hookspec
def trio_sup_gallery_sources() -> Mapping[str, Callable[..., GallerySource]]:  # type: ignore[empty-body]
    """Offer ways to fetch releases, by the scheme of their addresses: ``"https"``. One object per set of galleries."""


@hookspec
def trio_sup_observers(sections: Mapping[str, Any]) -> Sequence[Observer]:  # type: ignore[empty-body]
    """Give functions that are called with every event.

    Args:
        sections: The configuration sections of all plugins, by name; see `trio_sup_config_sections`. An
            implementation that does not need them leaves the argument out.
    """


@hookspec
def trio_sup_services(sections: Mapping[str, Any]) -> Mapping[str, Service]:  # type: ignore[empty-body]
    """Give long-running async functions, by name: each runs for as long as the supervisor does.

    Args:
        sections: As for `trio_sup_observers`.
    """


@hookspec
def trio_sup_commands() -> Mapping[str, Callable[..., int | Awaitable[int | None] | None]]:  # type: ignore[empty-body]
    """Give subcommands of `trio-sup`, by name: functions whose parameters and docstring make its command line.

    The result is the exit status; None is 0. An async function is run by Trio.
    """


@hookspec
def trio_sup_config_sections() -> Mapping[str, type]:  # type: ignore[empty-body]
    """Give top-level tables of the configuration, by name: attrs classes that they are structured into.

    A table that the file leaves out is made with its defaults, if the class has one for every field.
    """
