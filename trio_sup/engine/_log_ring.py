"""The newest output of one process key, as chunks in memory that is bounded in bytes; lines are split on reading."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from weakref import WeakSet

import attrs

from .._log_lines import Stream

CHUNK_COST = 200
"""What a chunk costs besides its bytes, so that many tiny ones are bounded as well."""

SMALL = 512
"""Chunks are joined up to this size: a program that writes byte by byte must not cost an object per byte."""

TICK = 0.01
"""Seconds within which two lines may be given the same time."""


@attrs.frozen
class Chunk:
    """What was read at once.

    Attributes:
        number: Rising over both streams of a key, in the order of arrival.
        time: When it was read, in seconds since the epoch.
        generation: Which attempt wrote it.
        start: Position of its first byte in all that the stream ever carried.
        data: Empty if the stream of that attempt ended here, in the middle of a line.
    """

    number: int
    time: float
    generation: int
    start: int
    data: bytes

    @property
    def end(self) -> int:
        """The position behind its last byte."""
        return self.start + len(self.data)

    @property
    def cost(self) -> int:
        """What it takes of a ring's memory, in bytes."""
        return len(self.data) + CHUNK_COST


@attrs.frozen
class Place:
    """Somewhere in a stream, kept or not.

    Attributes:
        index: Which chunk it is in, counted from the first there ever was; or the one behind its end.
        at: The position.
        lines: How many lines ended before it. Only the difference between two places means something, and only while
            somebody reads.
    """

    index: int = 0
    at: int = 0
    lines: int = 0


class StreamRing:
    """What is kept of one stream of a key, over all its attempts: the newest chunks."""

    def __init__(self) -> None:
        self.chunks: deque[Chunk] = deque()
        self.begin = Place()
        """Where what is kept begins."""
        self.end = 0
        """The position behind the last byte."""
        self.cost = 0
        self._begins_within_line = False
        self._ends_within_line = False

    def append(self, chunk: Chunk, *, join: bool) -> bool:
        """Add what was read; with *join* it may become part of the chunk before. Tells whether it did.

        No line gets another time by that, as far as `TICK` can tell.
        """
        last = self.chunks[-1] if self.chunks else None
        joined = (
            join
            and last is not None
            and last.generation == chunk.generation
            and 0 < len(last.data) <= SMALL - len(chunk.data)
            and (b"\n" not in last.data or abs(chunk.time - last.time) < TICK)
        )
        if joined and last is not None:
            time = last.time if b"\n" in last.data else chunk.time
            self.chunks[-1] = attrs.evolve(last, time=time, data=last.data + chunk.data)
            self.cost += len(chunk.data)
        else:
            self.chunks.append(chunk)
            self.cost += chunk.cost
        self.end += len(chunk.data)
        self._ends_within_line = not chunk.data.endswith(b"\n")
        return joined

    def finish(self, number: int, time: float, generation: int) -> bool:
        """The attempt writes no more: what it has not finished is a line as well. Tells whether there was one."""
        if not self._ends_within_line:
            return False
        chunk = Chunk(number, time, generation, self.end, b"")
        self.chunks.append(chunk)
        self.cost += chunk.cost
        self._ends_within_line = False
        return True

    def drop(self, cost: int, *, count: bool) -> None:
        """Give up about *cost* bytes of memory, the oldest chunks first; the last one of them is cut.

        Args:
            count: Count the lines that go, for somebody who reads.
        """
        while cost > 0 and self.chunks:
            chunk = self.chunks.popleft()
            gone, kept = chunk.data[:cost], chunk.data[cost:]
            self.cost -= len(gone)
            cost -= len(gone)
            index, lines = self.begin.index, self.begin.lines
            if count:
                lines += gone.count(b"\n") if gone else 1
            self._begins_within_line = bool(gone) and not gone.endswith(b"\n")
            if kept:
                self.chunks.appendleft(attrs.evolve(chunk, start=chunk.start + len(gone), data=kept))
            else:
                index += 1
                self.cost -= CHUNK_COST
                cost -= CHUNK_COST
            self.begin = Place(index, self.begin.at + len(gone), lines)

    def chunk(self, index: int) -> Chunk | None:
        """The chunk of that index, if there is one yet."""
        position = index - self.begin.index
        return self.chunks[position] if position < len(self.chunks) else None

    def awaits_rest_of_line(self) -> bool:
        """Whether nothing is kept and the last line has not ended."""
        return self._begins_within_line and not self.chunks

    def first_whole_line(self) -> Place:
        """Where the first line begins that is kept as a whole; where anything begins, if no line even ends."""
        if self._begins_within_line:
            lines = self.begin.lines + 1
            for index, chunk in enumerate(self.chunks, self.begin.index):
                if not chunk.data:
                    return Place(index + 1, chunk.start, lines)
                if (found := chunk.data.find(b"\n")) >= 0:
                    return Place(index, chunk.start + found + 1, lines)
        return self.begin

    def before_last(self, count: int) -> Place:
        """Where the last *count* lines begin that have ended, or the first whole one if there are not so many."""
        lines = self.begin.lines + sum(map(_line_ends, self.chunks)) - count
        left = count + 1  # the line end before them
        for back, chunk in enumerate(reversed(self.chunks), 1):
            index = self.begin.index + len(self.chunks) - back
            ends = _line_ends(chunk)
            if ends < left:
                left -= ends
                continue
            if not chunk.data:
                return Place(index + 1, chunk.start, lines)
            position = len(chunk.data)
            for _ in range(left):
                position = chunk.data.rfind(b"\n", 0, position)
            return Place(index, chunk.start + position + 1, lines)
        return self.first_whole_line()

    def tail(self, generation: int, size: int) -> bytes:
        """The last bytes that the attempt wrote, at most *size* of them."""
        found: list[bytes] = []
        for chunk in reversed(self.chunks):
            if chunk.generation != generation or size <= 0:
                break
            found.append(chunk.data[-size:])
            size -= len(chunk.data)
        return b"".join(reversed(found))


def _line_ends(chunk: Chunk) -> int:
    return chunk.data.count(b"\n") if chunk.data else 1


class LogRing:
    """Both streams of a key, in memory that they share: the one that takes more of it loses its oldest chunks."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.streams: Mapping[Stream, StreamRing] = {"stdout": StreamRing(), "stderr": StreamRing()}
        self.readers: WeakSet[object] = WeakSet()
        """Who reads and goes on with it later; what they miss is counted, which costs time in a flood."""
        self._number = 0
        self._newest: StreamRing | None = None

    @property
    def cost(self) -> int:
        """Bytes of memory it takes, at most `limit`."""
        return sum(ring.cost for ring in self.streams.values())

    def append(self, stream: Stream, generation: int, time: float, data: bytes) -> None:
        """Keep *data*, and let go of what is too old for that."""
        ring = self.streams[stream]
        # Only at the very end: joined to an older chunk, it would seem to have come before what lies between.
        if not ring.append(Chunk(self._number, time, generation, ring.end, data), join=ring is self._newest):
            self._number += 1
        self._newest = ring
        self._shrink()

    def finish(self, stream: Stream, generation: int, time: float) -> None:
        """The attempt writes no more to *stream*."""
        if self.streams[stream].finish(self._number, time, generation):
            self._number += 1
            self._newest = None
            self._shrink()

    def _shrink(self) -> None:
        while (excess := self.cost - self.limit) > 0:
            max(self.streams.values(), key=lambda ring: ring.cost).drop(excess, count=bool(self.readers))
