"""The objects that streaming calls hand to their block."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Generic

from ._call import Call, Reply, Request

if TYPE_CHECKING:
    from ._channel import Channel


class Replies(Generic[Request, Reply]):
    """The messages a server sends, to be read with ``async for``; one task may read at a time.

    A call that fails raises `CallFailed` in place of the next message. Cancelling a read loses no message.
    Cannot be built by hand: see `Channel.unary_stream`.
    """

    def __init__(self, channel: Channel, call: Call[Request, Reply]) -> None:
        self._channel = channel
        self._call = call

    def __aiter__(self) -> Replies[Request, Reply]:
        return self

    async def __anext__(self) -> Reply:
        message = await self._channel._run(self._call, self._call.receive)
        if message is None:
            raise StopAsyncIteration
        return message


class StreamCall(Replies[Request, Reply]):
    """A call in which both sides send as they like: one task may send while another one reads.

    Cannot be built by hand: see `Channel.stream_stream`.
    """

    async def send(self, message: Request) -> None:
        """Send one message; waits while the server is not ready for more.

        Raises:
            CallFailed: The call has failed, or the server has ended it (its last messages can still be read).

        Cancellation: ends the call, since half of the message may be on its way.
        """
        await self._channel._run(self._call, functools.partial(self._call.send, message))

    async def end(self) -> None:
        """Say that no more messages follow; the server's answers can still be read.

        Raises:
            CallFailed: As `send` does.
        """
        await self._channel._run(self._call, self._call.end)
