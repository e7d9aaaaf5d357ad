"""The plugins' observers: told every event, one by one, and disconnected when they fail."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from ..events import Event, PluginFailed
from ..strategies import Observer
from ._event_stream import EventHub
from ._plugin_calls import PluginCalls


class Observers:
    """Passes events on to the observers of plugins, each given with the name of its plugin."""

    def __init__(self, observers: Iterable[tuple[str, Observer]], calls: PluginCalls, hub: EventHub) -> None:
        self._observers = dict(enumerate(observers))
        self._calls = calls
        self._hub = hub
        self._untold: deque[Event] = deque()
        self._telling = False

    def tell(self, event: Event) -> None:
        """Call every observer with *event*; an event that this brings about is told after it, in order."""
        if not self._observers:
            return
        self._untold.append(event)
        if self._telling:
            return
        self._telling = True
        try:
            while self._untold:
                self._tell_all(self._untold.popleft())
        finally:
            self._telling = False

    def _tell_all(self, event: Event) -> None:
        for number, (plugin, observer) in tuple(self._observers.items()):
            try:
                self._calls.call(plugin, "an observer", observer, event)
            except Exception as error:
                del self._observers[number]
                self._hub.publish(
                    PluginFailed(plugin=plugin, what=f"its observer raised {error!r}", instead="it was disconnected")
                )
