"""The plugins' services: long-running tasks beside the backends."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import trio

from ..events import PluginFailed
from ..strategies import Service
from ._event_stream import EventHub
from ._raised import divided

if TYPE_CHECKING:
    from ._supervisor import Supervisor


class Services:
    """Runs the services of plugins: each given with the plugin's name and its own."""

    def __init__(self, services: Iterable[tuple[str, str, Service]], hub: EventHub) -> None:
        self._services = tuple(services)
        self._hub = hub

    def start(self, supervisor: Supervisor, nursery: trio.Nursery) -> None:
        """Start all of them in *nursery*, which cancels them when every backend has ended."""
        for plugin, name, service in self._services:
            nursery.start_soon(self._run, plugin, name, service, supervisor, name=f"service {name} of {plugin}")

    @trio.lowlevel.enable_ki_protection
    async def _run(self, plugin: str, name: str, service: Service, supervisor: Supervisor) -> None:
        try:
            await service(supervisor)
        except BaseException as error:
            own, others = divided(error, cancelled=trio.current_effective_deadline() == -math.inf)
            if own is not None:
                self._failed(plugin, name, own)
            if others is not None:
                raise others from None

    def _failed(self, plugin: str, name: str, error: Exception) -> None:
        what, instead = f"its service {name!r} raised {error!r}", "the service has ended, the supervisor goes on"
        self._hub.publish(PluginFailed(plugin=plugin, what=what, instead=instead))
