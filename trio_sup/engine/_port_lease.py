"""The port of a slot: chosen by the strategy, checked and held by the engine, from the first attempt to the last."""

from __future__ import annotations

import attrs
import trio

from .. import events
from ..defaults._ports import AffinityPorts
from ..errors import NoPortAvailable
from ..strategies import PortsExhausted, PortStrategy
from ._event_stream import EventHub
from ._plugin_calls import PluginCalls
from ._slot import Slot
from ._system import HeldPort, System


class _SystemRefused(OSError):
    """Holding a port failed, which another strategy would not change; not to be taken for an error of the strategy."""


@attrs.define(eq=False, kw_only=True)
class PortLeases:
    """Takes ports for slots and gives them back.

    Args:
        name: How the strategy is called in messages.
    """

    strategy: PortStrategy
    name: str
    system: System
    hub: EventHub
    calls: PluginCalls
    _fallback: AffinityPorts | None = None

    def take(self, slot: Slot) -> None:
        """Let the strategy choose, check what it chose, and hold it for the life of the slot.

        Raises:
            NoPortAvailable: It has none.
            OSError: The system refused to hold any.
        """
        try:
            try:
                self._allocate(slot, self.strategy)
            except (PortsExhausted, _SystemRefused):
                raise
            except Exception as error:
                self._failed(slot, f"it failed with {error!r}", "'affinity' takes over")
                self._fallback = self._fallback or AffinityPorts()
                self._allocate(slot, self._fallback)
        except PortsExhausted as error:
            raise NoPortAvailable(slot.key, slot.attempt.generation, why=str(error)) from error

    def _allocate(self, slot: Slot, strategy: PortStrategy) -> None:
        held: dict[int, HeldPort] = {}

        def hold(port: int) -> int | None:
            try:
                taken = self.system.hold_port(port)
            except OSError as error:
                raise _SystemRefused(*error.args) from error
            if taken is None:
                return None
            held[taken.port] = taken
            return taken.port

        try:
            with self.calls.timed(self.name, "allocate()"):
                port = strategy.allocate(slot.key, trio.current_time(), hold)
            if port not in held:
                raise ValueError(f"allocate() returned {port!r}, which it does not hold")
            slot.held_port, slot.port, slot.port_strategy = held.pop(port), port, strategy
        finally:
            for unused in held.values():
                unused.close()
        stolen = getattr(strategy, "stolen", None)
        if stolen is not None:
            self.hub.publish(
                events.PortStolen(key=slot.key, generation=slot.attempt.generation, port=port, kept_for=stolen[1])
            )

    def drop_placeholder(self, slot: Slot) -> None:
        """Keep the port, but no longer hold it in the kernel."""
        if slot.held_port is not None:
            slot.held_port.close()
            slot.held_port = None

    def give_back(self, slot: Slot) -> None:
        """Return the port to its strategy: its processes are proven gone."""
        self.drop_placeholder(slot)
        if slot.port is None or slot.port_strategy is None:
            return
        try:
            with self.calls.timed(self.name, "release()"):
                slot.port_strategy.release(slot.key, slot.port, trio.current_time())
        except Exception as error:
            self._failed(slot, f"release() raised {error!r}", "it was ignored")
        slot.port = slot.port_strategy = None

    def _failed(self, slot: Slot, what: str, instead: str) -> None:
        self.hub.publish(
            events.PluginFailed(plugin=f"port strategy {self.name!r}", what=what, instead=instead, key=slot.key)
        )
