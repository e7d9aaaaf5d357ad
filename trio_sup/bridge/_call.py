"""One RPC on the asyncio side: every coroutine here runs in a task of the bridge's loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message
from grpclib.client import Stream
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.metadata import Deadline
from h2.errors import ErrorCodes

from ._answer import Answer
from ._codec import check_size
from ._failure import PeerEnded

_log = logging.getLogger("trio_sup.bridge")

Request = TypeVar("Request", bound=Message)
Reply = TypeVar("Reply", bound=Message)


class Call(Generic[Request, Reply]):
    """Sends and receives the messages of one RPC; nothing of it is left after `close`.

    grpclib's own reading and closing are not used: its reading loses its place when it is cancelled within a message,
    and its closing waits for a server that may never end.
    """

    def __init__(
        self,
        path: str,
        open_stream: Callable[[], Stream[Request, Reply]],
        reply_type: type[Reply],
        timeout: float | None,
        deadline: float,
    ) -> None:
        self.path = path
        self.timeout = timeout
        self.deadline = deadline  # on Trio's clock
        self.stream: Stream[Request, Reply] | None = None
        self._open_stream = open_stream
        self._reply_type = reply_type
        self._answer: Answer | None = None
        self._length: int | None = None  # of the message whose head has been read
        self._finished = False
        self._closed = False

    async def unary(self, request: Request) -> Reply:
        """The whole of a unary call."""
        try:
            await self.start()
            with contextlib.suppress(PeerEnded):
                await self.send(request, end=True)
            return await self.receive_only()
        finally:
            self.close()

    async def start(self) -> None:
        """Connect if need be and send the request's headers."""
        self.stream = await self._open_stream().__aenter__()
        if self.timeout is not None and self.timeout < 10**8:  # the longest that gRPC can write
            # Only the header: our own clock keeps the time, and leaves no timers behind.
            self.stream._deadline = Deadline.from_timeout(self.timeout)
        await self.stream.send_request()
        self._answer = Answer(self.stream._stream)

    async def send(self, message: Request, *, end: bool = False) -> None:
        """Send one message. If cancelled, the call has ended: half a message may be on the wire."""
        await self._while_wanted(lambda stream: stream.send_message(message, end=end))

    async def end(self) -> None:
        """Say that no more messages follow."""
        await self._while_wanted(lambda stream: stream.end())

    async def _while_wanted(self, send: Callable[[Stream[Request, Reply]], Any]) -> None:
        stream, answer = self._opened()
        if answer.complete:
            raise PeerEnded
        answer.sender = asyncio.current_task()
        try:
            await send(stream)
        except asyncio.CancelledError:
            if answer.complete:
                raise PeerEnded from None
            self.close()
            raise
        finally:
            answer.sender = None

    async def receive(self) -> Reply | None:
        """The next message, or None if the server ended the call with status OK. Cancelling it loses nothing."""
        if self._finished:
            return None
        stream, _ = self._opened()
        if not stream._recv_initial_metadata_done:
            await stream.recv_initial_metadata()
        with stream._wrapper:
            if self._length is None:
                head = await _read(stream, 5)
                if head:
                    self._length = _length_of(head)
            if self._length is not None:
                data = await _read(stream, self._length)
                if len(data) < self._length:
                    raise GRPCError(Status.INTERNAL, "the answer ends within a message")
                self._length = None
                message: Reply = stream._codec.decode(data, self._reply_type)
                return message
        stream._end_done = True  # what we have not sent yet, nobody waits for
        await stream.recv_trailing_metadata()
        self._finished = True
        return None

    async def receive_only(self) -> Reply:
        """The one message of the answer, after the server said that all is well."""
        reply = await self.receive()
        if reply is None or await self.receive() is not None:
            raise GRPCError(Status.INTERNAL, "the answer must be exactly one message")
        return reply

    def _opened(self) -> tuple[Stream[Request, Reply], Answer]:
        if self._closed or self.stream is None or self._answer is None:
            raise GRPCError(Status.CANCELLED, "the call has ended")
        return self.stream, self._answer

    def close(self) -> None:
        """End the call: if it is not over, the server is told so. May be called from any task, and again."""
        if self._closed:
            return
        self._closed = True
        stream = self.stream
        if stream is None or not stream._send_request_done:
            return
        try:
            if stream._stream.closable:
                stream._stream.reset_nowait(ErrorCodes.CANCEL)
        except Exception:
            _log.debug("the end of %s could not be told", self.path, exc_info=True)
        try:
            stream._release_stream()
        except Exception:
            _log.debug("the stream of %s could not be released", self.path, exc_info=True)


async def _read(stream: Stream[Any, Any], size: int) -> bytes:
    """The next *size* bytes; none if the answer is over. What was cancelled can be repeated."""
    try:
        return await stream._stream.recv_data(size)
    except AssertionError as error:
        raise GRPCError(Status.INTERNAL, "the answer ends within a message") from error


def _length_of(head: bytes) -> int:
    if head[0]:
        raise GRPCError(Status.UNIMPLEMENTED, "the answer is compressed, which was not asked for")
    size = int.from_bytes(head[1:], "big")
    check_size(size)
    return size
