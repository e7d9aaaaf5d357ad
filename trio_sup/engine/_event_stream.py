"""One ordered stream of events, and its observers."""

from __future__ import annotations

import logging
import time
import weakref
from collections import deque
from collections.abc import Callable

import attrs
import trio

from .. import events
from ..events import BackendEvent, Event, EventsLost

_log = logging.getLogger("trio_sup.engine")
_WARNINGS = (
    events.PluginFailed,
    events.PluginSlow,
    events.PluginStuck,
    events.GuardLost,
    events.LeftoversEnded,
    events.StateNotWritten,
    events.BackendUnready,
    events.BackendStopFailed,
    events.BackendBackoff,
    events.BackendGivenUp,
    events.IdentityUncertain,
    events.LogFailed,
)

BACKLOG = 1000
"""Events kept for an observer that does not read; older ones are lost to it, and counted."""


class EventStream:
    """An observer's view of the events, from the moment it was made: an async iterator.

    It ends when the supervisor does. An observer that falls behind by more than 1000 events loses the oldest ones,
    and gets an [`EventsLost`][trio_sup.events.EventsLost] in their place. Cancellation while waiting loses nothing.
    Of several tasks that read one stream, each event goes to one.
    """

    def __init__(self) -> None:
        self._waiting: deque[Event] = deque()
        self._lost = 0
        self._news = trio.lowlevel.ParkingLot()
        self._closed = False

    def _push(self, event: Event) -> None:
        if len(self._waiting) >= BACKLOG:
            self._waiting.popleft()
            self._lost += 1
        self._waiting.append(event)
        self._news.unpark_all()

    def _close(self) -> None:
        self._closed = True
        self._news.unpark_all()

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event:
        await trio.lowlevel.checkpoint()
        while not self._waiting:
            if self._closed:
                raise StopAsyncIteration
            await self._news.park()
        if self._lost:
            first = self._waiting[0]
            lost, self._lost = self._lost, 0
            return EventsLost(sequence=first.sequence - 1, time=first.time, count=lost)
        return self._waiting.popleft()


class EventHub:
    """Numbers events and hands them to whoever observes; never waits for an observer."""

    def __init__(self) -> None:
        self._sequence = 0
        self._streams: weakref.WeakSet[EventStream] = weakref.WeakSet()
        self._closed = False
        self._early: list[Event] = []
        self._begun = False
        self.observe: Callable[[Event], None] = lambda event: None
        """Called with every event, beside the streams."""

    def publish_early(self, event: Event) -> None:
        """Publish *event* also to streams that are made later, as long as nothing has happened to a backend.

        What happens while a supervisor opens would have no observer otherwise.
        """
        event = self._publish(event)
        if not self._begun:
            self._early.append(event)

    def publish(self, event: Event) -> None:
        self._publish(event)

    def _publish(self, event: Event) -> Event:
        self._sequence += 1
        event = attrs.evolve(event, sequence=self._sequence, time=time.time())
        if isinstance(event, BackendEvent):
            self._begun = True
            self._early.clear()
        _log.log(logging.WARNING if isinstance(event, _WARNINGS) else logging.INFO, "%s", event)
        for stream in tuple(self._streams):
            stream._push(event)
        self.observe(event)
        return event

    def stream(self) -> EventStream:
        stream = EventStream()
        for event in self._early:
            stream._push(event)
        if self._closed:
            stream._close()
        else:
            self._streams.add(stream)
        return stream

    def close(self) -> None:
        self._closed = True
        for stream in tuple(self._streams):
            stream._close()
