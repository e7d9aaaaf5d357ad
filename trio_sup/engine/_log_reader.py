"""Reading what is kept of a key's output: both streams in the order of arrival, cut into lines on the way.

A reader holds its place in the ring and nothing of the ring's: however slow it is, it costs no memory and keeps
nobody waiting. What was dropped before it came is counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import trio

from .._line_splitter import LineSplitter
from .._log_lines import LinesLost, LogLine, Stream
from .._values import ProcessKey
from ._log_ring import Chunk, LogRing, Place, StreamRing

SLICE = 4096
"""Bytes that are cut into lines at once, so that few lines wait for who reads them one by one."""

LogItem = LogLine | LinesLost


class StreamReader:
    """Reads one stream of a key from *place* on."""

    def __init__(self, key: ProcessKey, stream: Stream, ring: StreamRing, place: Place) -> None:
        self._key = key
        self._stream: Stream = stream
        self._ring = ring
        self._place = place
        self._splitter = LineSplitter()

    def next_number(self) -> int | None:
        """The number of the chunk to read next; None if all was read."""
        if self._missed():
            return -1  # before anything else is told, tell this
        chunk = self._chunk()
        return None if chunk is None else chunk.number

    def read(self) -> list[LogItem]:
        """What comes next; may be nothing yet, if no line ends in it."""
        if self._missed():
            return [self._skip()]
        chunk = self._chunk()
        if chunk is None:
            return []
        place = self._place
        if not chunk.data:
            self._place = Place(place.index + 1, place.at, place.lines + 1)
            return self._lines(chunk, self._splitter.flush())
        offset = place.at - chunk.start
        data = chunk.data[offset : offset + SLICE]
        self._place = Place(place.index, place.at + len(data), place.lines + data.count(b"\n"))
        return self._lines(chunk, self._splitter.feed(data))

    def unfinished(self) -> list[LogItem]:
        """The beginning of a line whose end is not there yet. Ends the reading."""
        last = self._ring.chunks[-1] if self._ring.chunks else None
        return self._lines(last, self._splitter.flush()) if last is not None else []

    def _missed(self) -> bool:
        begin = self._ring.begin
        if self._ring.awaits_rest_of_line():
            return False  # told when it is known what is left of that line
        # By lines as well: the end of an unfinished one has no bytes.
        return self._place.at < begin.at or self._place.lines < begin.lines

    def _skip(self) -> LinesLost:
        """Go on at the first whole line; what was read of one that lost its end is missing too."""
        place, self._place = self._place, self._ring.first_whole_line()
        missing = self._place.at - place.at + self._splitter.unfinished
        self._splitter = LineSplitter()
        return LinesLost(key=self._key, stream=self._stream, lines=self._place.lines - place.lines, bytes=missing)

    def _chunk(self) -> Chunk | None:
        """The chunk with the next unread byte, or the end that comes next."""
        place = self._place
        index = max(place.index, self._ring.begin.index)
        chunk = self._ring.chunk(index)
        while chunk is not None and chunk.data and chunk.end == place.at:
            if (following := self._ring.chunk(index + 1)) is None:
                return None  # it may still grow
            index, chunk = index + 1, following
        self._place = Place(index, place.at, place.lines)
        return chunk

    def _lines(self, chunk: Chunk, lines: list[bytes]) -> list[LogItem]:
        return [
            LogLine(
                time=chunk.time,
                key=self._key,
                generation=chunk.generation,
                stream=self._stream,
                text=line.decode("utf-8", "backslashreplace"),
            )
            for line in lines
        ]


class LogReader:
    """Reads both streams of a key; by default from the first line that is kept as a whole.

    Args:
        last: Begin with the last lines that have ended, at most so many of each stream.
    """

    def __init__(self, key: ProcessKey, ring: LogRing, last: int | None = None) -> None:
        self._readers = [
            StreamReader(key, stream, kept, kept.first_whole_line() if last is None else kept.before_last(last))
            for stream, kept in ring.streams.items()
        ]

    def read(self) -> Iterator[LogItem]:
        """Everything there is; goes on where it ended when it is called again."""
        while (reader := self._next()) is not None:
            yield from reader.read()

    def read_some(self) -> list[LogItem]:
        """A few lines; none if there are none yet."""
        found: list[LogItem] = []
        while not found and (reader := self._next()) is not None:
            found = reader.read()
        return found

    def unfinished(self) -> Iterator[LogItem]:
        """What was written of lines that have not ended. Ends the reading."""
        for reader in self._readers:
            yield from reader.unfinished()

    def _next(self) -> StreamReader | None:
        waiting = [(number, reader) for reader in self._readers if (number := reader.next_number()) is not None]
        return min(waiting, key=lambda each: each[0])[1] if waiting else None


class LogFollower:
    """Every line of a key, those that are kept first and then each one when it ends: an async iterator.

    It goes on over restarts of the slot, and ends when the supervisor has. One that is slower than the backend loses
    the oldest lines when they leave the memory they are kept in, and gets a [`LinesLost`][trio_sup.LinesLost] in
    their place. Cancellation while waiting loses nothing.
    """

    def __init__(
        self, reader: LogReader, begin: Iterable[LogItem], news: trio.lowlevel.ParkingLot, closed: Callable[[], bool]
    ) -> None:
        self._reader = reader
        self._waiting = deque(begin)
        self._news = news
        self._closed = closed

    def __aiter__(self) -> LogFollower:
        return self

    async def __anext__(self) -> LogItem:
        await trio.lowlevel.checkpoint()
        while not self._waiting:
            self._waiting.extend(self._reader.read_some())
            if not self._waiting:
                if self._closed():
                    raise StopAsyncIteration
                await self._news.park()
        return self._waiting.popleft()
