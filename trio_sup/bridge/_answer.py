"""What the server's end of a stream means for a call; grpclib leaves three cases open."""

from __future__ import annotations

import asyncio

from grpclib.protocol import Stream


class Answer:
    """Watches one HTTP/2 stream.

    - A server that ends the stream without trailers would never be noticed: trailers are then taken as empty.
    - An answer that is complete stays valid, although the connection ends before it was read.
    - A sender that waits for room is woken once the server has ended the stream, for it will make none.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.complete = False
        self.sender: asyncio.Task[object] | None = None
        # grpclib looks both up on the stream, for each event; there is no hook.
        stream.__ended__ = self._ended  # type: ignore[method-assign]
        stream.__terminated__ = self._terminated  # type: ignore[method-assign]

    def _ended(self) -> None:
        stream = self._stream
        self.complete = True
        if stream.trailers is None and "grpc-status" not in dict(stream.headers or ()):
            stream.trailers = []
        Stream.__ended__(stream)
        self._wake_sender()

    def _terminated(self, reason: str) -> None:
        if self.complete:
            self._wake_sender()
        else:
            Stream.__terminated__(self._stream, reason)

    def _wake_sender(self) -> None:
        if self.sender is not None:
            self.sender.cancel()
