"""The port of a slot: chosen by its strategy, checked and held by the engine, from the first attempt to the last."""

from __future__ import annotations

from typing import Any

import attrs
import trio

from .. import events
from .._values import Choice
from ..defaults._ports import AffinityPorts
from ..errors import NoPortAvailable
from ..strategies import PortsExhausted, PortStrategy
from ._event_stream import EventHub
from ._plugin_calls import PluginCalls
from ._plugins import Plugins
from ._slot import PortSource, Slot
from ._system import HeldPort, System

_KERNEL_TRIES = 64
"""Times that the kernel is asked for another port because it offers one that a backend has."""


class _SystemRefused(OSError):
    """Holding a port failed, which another strategy would not change; not to be taken for an error of the strategy."""


@attrs.define(eq=False, kw_only=True)
class PortLeases:
    """Takes ports for slots and gives them back.

    Args:
        default: The strategy of the backends that choose none.
    """

    plugins: Plugins
    default: Any
    system: System
    hub: EventHub
    calls: PluginCalls
    _fallback: AffinityPorts | None = None
    # By `Choice`, so that equal ones share a strategy and its memory of ports; by identity for an object.
    _sources: dict[Choice | int, PortSource] = attrs.field(factory=dict, init=False)
    # A port may be a backend's although nothing holds it in the kernel just now: see `drop_placeholder`.
    _leased: set[int] = attrs.field(factory=set, init=False)

    def __attrs_post_init__(self) -> None:
        self.source(None)

    def source(self, choice: Any) -> PortSource:
        """The strategy that *choice* means, or the default if it is None: the same one each time.

        Raises:
            UnknownStrategy, InvalidOptions, InvalidValue, PluginError: See `Plugins.make`.
        """
        if choice is None:
            choice = self.default
        known = choice if isinstance(choice, Choice) else id(choice)
        if known not in self._sources:
            strategy = self.plugins.make("port strategy", choice)
            self._sources[known] = PortSource(strategy, self.plugins.name_of("port strategy", choice))
        return self._sources[known]

    def take(self, slot: Slot) -> None:
        """Let the strategy choose, check what it chose, and hold it for the life of the slot.

        A slot that has a port keeps it, unless another strategy is wanted now.

        Raises:
            NoPortAvailable: It has none.
            OSError: The system refused to hold any.
        """
        if slot.port is not None:
            if slot.port_source is slot.wanted.strategies.ports:
                return
            self.give_back(slot)
        slot.port_source = slot.wanted.strategies.ports
        try:
            try:
                self._allocate(slot, slot.port_source, slot.port_source.strategy)
            except (PortsExhausted, _SystemRefused):
                raise
            except Exception as error:
                self._failed(slot, f"it failed with {error!r}", "'affinity' takes over")
                self._fallback = self._fallback or AffinityPorts()
                self._allocate(slot, slot.port_source, self._fallback)
        except PortsExhausted as error:
            raise NoPortAvailable(slot.key, slot.attempt.generation, why=str(error)) from error

    def _allocate(self, slot: Slot, source: PortSource, strategy: PortStrategy) -> None:
        held: dict[int, HeldPort] = {}

        def hold(port: int) -> int | None:
            if port in self._leased:
                return None
            for _ in range(_KERNEL_TRIES):
                taken = self._hold(port)
                if taken is None:
                    return None
                # What is not given stays held until the end, so that the kernel offers another one.
                held[taken.port] = taken
                if taken.port not in self._leased:
                    return taken.port
            return None

        try:
            port = self.calls.call(source.name, "allocate()", strategy.allocate, slot.key, trio.current_time(), hold)
            if port not in held or port in self._leased:
                raise ValueError(f"allocate() returned {port!r}, which it does not hold")
            slot.held_port, slot.port, slot.port_strategy = held.pop(port), port, strategy
            self._leased.add(port)
        finally:
            for unused in held.values():
                unused.close()
        stolen = getattr(strategy, "stolen", None)
        if stolen is not None:
            self.hub.publish(
                events.PortStolen(key=slot.key, generation=slot.attempt.generation, port=port, kept_for=stolen[1])
            )

    def _hold(self, port: int) -> HeldPort | None:
        try:
            return self.system.hold_port(port)
        except OSError as error:
            raise _SystemRefused(*error.args) from error

    def drop_placeholder(self, slot: Slot) -> None:
        """Keep the port, but no longer hold it in the kernel."""
        if slot.held_port is not None:
            slot.held_port.close()
            slot.held_port = None

    def give_back(self, slot: Slot) -> None:
        """Return the port to its strategy: its processes are proven gone."""
        self.drop_placeholder(slot)
        if slot.port is None or slot.port_strategy is None or slot.port_source is None:
            return
        self._leased.discard(slot.port)
        try:
            self.calls.call(
                slot.port_source.name,
                "release()",
                slot.port_strategy.release,
                slot.key,
                slot.port,
                trio.current_time(),
            )
        except Exception as error:
            self._failed(slot, f"release() raised {error!r}", "it was ignored")
        slot.port = slot.port_strategy = None

    def _failed(self, slot: Slot, what: str, instead: str) -> None:
        name = slot.port_source.name if slot.port_source is not None else ""
        self.hub.publish(
            events.PluginFailed(plugin=f"port strategy {name!r}", what=what, instead=instead, key=slot.key)
        )
