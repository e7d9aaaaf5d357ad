"""What a reader of logs gets: lines, and how many of them it missed."""

from __future__ import annotations

from typing import Literal

import attrs

from ._values import ProcessKey

Stream = Literal["stdout", "stderr"]


@attrs.frozen(kw_only=True)
class LogLine:
    """One line that a backend wrote, or a piece of one that is longer than 64 KiB.

    Attributes:
        time: When its end was read, in seconds since the epoch.
        key: Who wrote it.
        generation: In which attempt.
        stream: ``"stdout"`` or ``"stderr"``.
        text: The line without its line end; bytes that are no UTF-8 are shown as ``\\xNN``.
    """

    time: float
    key: ProcessKey
    generation: int
    stream: Stream
    text: str

    def __str__(self) -> str:
        return self.text


@attrs.frozen(kw_only=True)
class LinesLost:
    """This reader was too slow: so much was dropped before it was read, at this place of the stream.

    Attributes:
        key: Whose output it was.
        stream: ``"stdout"`` or ``"stderr"``.
        lines: How many lines are missing, those included of which only a part is.
        bytes: How many bytes are missing.
    """

    key: ProcessKey
    stream: Stream
    lines: int
    bytes: int

    def __str__(self) -> str:
        return f"{self.lines} lines ({self.bytes} bytes) of {self.stream} are missing here: they were read too slowly"
