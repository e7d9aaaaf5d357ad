"""A small HTTP server of the tests' own, on Trio and h11: for tokens, and for a proxy that does harm."""

from __future__ import annotations

import contextlib
import functools
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import attrs
import h11
import trio


@attrs.frozen(kw_only=True)
class Asked:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


class Reset(Exception):
    """To be raised by a body: the connection is cut."""


@attrs.frozen(kw_only=True)
class Answer:
    status: int = 200
    headers: Sequence[tuple[str, str]] = ()
    body: bytes | AsyncGenerator[bytes, None] = b""


Handler = Callable[[Asked], Awaitable[Answer]]


@asynccontextmanager
async def serve(handler: Handler, port: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Answer with *handler* on 127.0.0.1, on *port* or a free one, which is yielded."""
    sockets = await trio.open_tcp_listeners(port, host="127.0.0.1")
    listeners: list[Any] = [*sockets]
    if tls is not None:
        listeners = [trio.SSLListener(listener, tls, https_compatible=True) for listener in sockets]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, functools.partial(_converse, handler), listeners)
        yield sockets[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def _converse(handler: Handler, stream: trio.abc.Stream) -> None:
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError, Reset):
        connection = h11.Connection(h11.SERVER)
        while (asked := await _request(connection, stream)) is not None:
            answer = await handler(asked)
            headers = list(answer.headers)
            if isinstance(answer.body, bytes) and "content-length" not in {name.lower() for name, _ in headers}:
                headers.append(("Content-Length", str(len(answer.body))))
            head = h11.Response(status_code=answer.status, headers=headers)
            await stream.send_all(connection.send(head) or b"")
            if asked.method != "HEAD":
                if isinstance(answer.body, bytes):
                    await stream.send_all(connection.send(h11.Data(data=answer.body)) or b"")
                else:
                    async with aclosing(answer.body) as chunks:
                        async for chunk in chunks:
                            await stream.send_all(connection.send(h11.Data(data=chunk)) or b"")
            await stream.send_all(connection.send(h11.EndOfMessage()) or b"")
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                break
            connection.start_next_cycle()


async def _request(connection: h11.Connection, stream: trio.abc.Stream) -> Asked | None:
    request: h11.Request | None = None
    body = b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some(65536)))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            assert request is not None
            headers = {name.decode(): value.decode() for name, value in request.headers}
            return Asked(method=request.method.decode(), target=request.target.decode(), headers=headers, body=body)
        else:
            return None
