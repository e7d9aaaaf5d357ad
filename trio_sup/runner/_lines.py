"""From the bytes that backends write to the lines that are shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Protocol

import attrs

from .._backlog import Lost
from .._line_splitter import LineSplitter
from .._log_lines import Stream
from .._values import ProcessKey
from ..engine import Output


@attrs.frozen
class EndOf:
    """Nothing more comes from *key* for now: show its unfinished lines. None means every key."""

    key: ProcessKey | None = None


@attrs.frozen
class Line:
    """A line of our own, ready to be written."""

    text: str


Shown = Output | EndOf | Line


class LineFormat(Protocol):
    """How a line is shown."""

    def output(self, key: ProcessKey, stream: str, text: str) -> str:
        """A line that *key* wrote."""
        ...

    def lost(self, source: str, count: int) -> str:
        """That *count* bytes of *source* are missing."""
        ...


@attrs.frozen
class Prefixed:
    """Lines for people: the key padded to *width*, ``|`` for stdout or ``!`` for stderr, and the text."""

    width: int = 0

    def output(self, key: ProcessKey, stream: str, text: str) -> str:
        return f"{key!s:<{self.width}} {'!' if stream == 'stderr' else '|'} {text}"

    def lost(self, source: str, count: int) -> str:
        return f"{source:<{self.width}} … {count} bytes are missing here: this output is read too slowly"


class Json:
    """Lines for programs: one JSON object each."""

    def output(self, key: ProcessKey, stream: str, text: str) -> str:
        return json.dumps({"type": "output", "key": str(key), "stream": stream, "text": text})

    def lost(self, source: str, count: int) -> str:
        return json.dumps({"type": "lost", "source": source, "bytes": count})


class Renderer:
    """Turns what is to be shown into bytes, in order. Used by one thread at a time."""

    def __init__(self, line_format: LineFormat) -> None:
        self._format = line_format
        self._splitters: dict[tuple[ProcessKey, Stream], tuple[int, LineSplitter]] = {}

    def render(self, item: Shown | Lost) -> Iterator[bytes]:
        match item:
            case Output(key=key, generation=generation, stream=stream, data=data):
                known = self._splitters.get((key, stream))
                if known is None or known[0] != generation:
                    yield from self._finish(key, stream)
                    known = self._splitters[key, stream] = generation, LineSplitter()
                for line in known[1].feed(data):
                    yield self._line(key, stream, line)
            case EndOf(key=ended):
                for key, stream in tuple(self._splitters):
                    if ended in (None, key):
                        yield from self._finish(key, stream)
            case Line(text=text):
                yield self._encoded(text)
            case Lost(source=source, count=count):
                if isinstance(source, ProcessKey):
                    yield from self.render(EndOf(source))
                yield self._encoded(self._format.lost(str(source), count))

    def _finish(self, key: ProcessKey, stream: Stream) -> Iterator[bytes]:
        _, splitter = self._splitters.pop((key, stream), (0, LineSplitter()))
        for line in splitter.flush():
            yield self._line(key, stream, line)

    def _line(self, key: ProcessKey, stream: str, line: bytes) -> bytes:
        return self._encoded(self._format.output(key, stream, line.decode("utf-8", "backslashreplace")))

    @staticmethod
    def _encoded(text: str) -> bytes:
        return f"{text}\n".encode("utf-8", "backslashreplace")
