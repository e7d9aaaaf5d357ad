"""What every backend wrote last, for readers and followers; and the way from a pump to the log files."""

from __future__ import annotations

import time
from collections import OrderedDict, deque

import attrs
import trio

from .._log_lines import LogLine, Stream
from .._values import LogSettings, ProcessKey
from ..errors import InvalidValue
from ._log_files import LogFiles
from ._log_reader import LogFollower, LogReader
from ._log_ring import LogRing

KEPT_KEYS = 100
"""Process keys that write no more whose output is still kept."""

TAIL_LINES = 20
"""Lines of stderr shown with a failure. Source: the LocalAI worker's number."""

TAIL_BYTES = 16 * 1024
"""However long these lines are."""


@attrs.define(eq=False)
class _KeyLog:
    """The output of one key, and where those wait who follow it."""

    ring: LogRing
    writing: int = 0
    """Streams that have not ended."""
    news: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)


class AttemptLog:
    """Takes what one attempt writes."""

    def __init__(
        self, logs: Logs, kept: _KeyLog, key: ProcessKey, generation: int, settings: LogSettings, files: LogFiles | None
    ) -> None:
        self._logs = logs
        self._kept = kept
        self._key = key
        self._generation = generation
        self._settings = settings
        self._files = files if settings.files else None

    def take(self, stream: Stream, data: bytes) -> None:
        """Keep *data* that was read from *stream*; never waits."""
        now = time.time()
        self._kept.ring.append(stream, self._generation, now, data)
        self._kept.news.unpark_all()
        if self._files is not None:
            self._files.put(self._key, self._generation, stream, now, data, self._settings)

    def end(self, stream: Stream) -> None:
        """*stream* carries no more: an unfinished line is a line now."""
        now = time.time()
        self._kept.ring.finish(stream, self._generation, now)
        self._kept.news.unpark_all()
        if self._files is not None:
            self._files.put(self._key, self._generation, stream, now, b"", self._settings)
        self._kept.writing -= 1
        if not self._kept.writing:
            self._logs._rest(self._key)

    def tail(self, stream: Stream) -> str:
        """Its last lines, at most 20 and 16 KiB of them; not blank at the very end, undecodable bytes as ``\\xNN``."""
        data = self._kept.ring.streams[stream].tail(self._generation, TAIL_BYTES)
        if len(data) == TAIL_BYTES:
            data = data.lstrip(bytes(range(0x80, 0xC0)))  # what is left of a character that was cut
        return "\n".join(data.decode("utf-8", "backslashreplace").rstrip().splitlines()[-TAIL_LINES:])


class Logs:
    """The output of all keys: of those that write, and of the last ones that did.

    Args:
        files: Where to write it to as well.
    """

    def __init__(self, files: LogFiles | None) -> None:
        self._files = files
        self._kept: dict[ProcessKey, _KeyLog] = {}
        self._resting: OrderedDict[ProcessKey, None] = OrderedDict()
        self._closed = False

    def begin(self, key: ProcessKey, generation: int, settings: LogSettings) -> AttemptLog:
        """An attempt was launched: both of its streams are to be ended."""
        kept = self._keep(key)
        self._resting.pop(key, None)
        kept.ring.limit = settings.ring_bytes
        kept.writing = 2
        return AttemptLog(self, kept, key, generation, settings, self._files)

    def read(self, key: ProcessKey, last: int | None = None) -> tuple[LogLine, ...]:
        """The lines that are kept, or the last ones of them; a line that has not ended comes as far as it does."""
        _check(last)
        kept = self._kept.get(key)
        if kept is None:
            return ()
        reader = LogReader(key, kept.ring, last)
        lines = deque((line for line in reader.read() if isinstance(line, LogLine)), last)
        unfinished = [line for line in reader.unfinished() if isinstance(line, LogLine)]
        lines.extend(sorted(unfinished, key=lambda line: line.time))
        return tuple(lines)

    def follow(self, key: ProcessKey, last: int | None = None) -> LogFollower:
        """The lines that are kept, or the last ones of them, and then every one that ends."""
        _check(last)
        kept = self._keep(key)
        reader = LogReader(key, kept.ring, last)
        begin = () if last is None else deque(reader.read(), last)
        follower = LogFollower(reader, begin, kept.news, lambda: self._closed)
        kept.ring.readers.add(follower)
        return follower

    def close(self) -> None:
        """Nobody writes any more: followers end when they have read what there is."""
        self._closed = True
        for kept in self._kept.values():
            kept.news.unpark_all()

    def _keep(self, key: ProcessKey) -> _KeyLog:
        kept = self._kept.get(key)
        if kept is None:
            kept = self._kept[key] = _KeyLog(LogRing(LogSettings().ring_bytes))
            self._rest(key)
        return kept

    def _rest(self, key: ProcessKey) -> None:
        """*key* writes nothing now; the one that has rested longest is forgotten, unless somebody waits for it."""
        self._resting[key] = None
        self._resting.move_to_end(key)
        for oldest in list(self._resting):
            if len(self._resting) <= KEPT_KEYS:
                break
            if oldest != key and not self._kept[oldest].ring.readers:
                del self._resting[oldest], self._kept[oldest]


def _check(last: object) -> None:
    if last is not None and (not isinstance(last, int) or isinstance(last, bool) or last < 0):
        raise InvalidValue(last, "the number of lines must be a whole number from 0, or None")
