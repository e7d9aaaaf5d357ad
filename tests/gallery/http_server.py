"""A web server for tests: ranges, validators, redirects, and everything that can go wrong on the way."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

import attrs
import h11
import trio


@attrs.define(eq=False, kw_only=True)
class Page:
    """What is at one path, and how the server behaves about it.

    Attributes:
        body: Its content.
        statuses: Answers to give first, one each, instead of the content; with ``Retry-After`` for a pair.
        cut_after: How many bytes of the body to send before the connection is cut, one each time.
        stall_after: How many bytes to send before nothing more comes, one each time; the connection stays open.
        ranges: Whether it heeds Range.
        etag: Its validator; None for that of its content, empty for none.
        redirect: Where to send whoever asks.
        length: Whether it says how long it is.
        heeds_if_range: Whether it heeds If-Range; not every cache does.
        shift: By how many bytes another range than the one asked for is sent.
        always_partial: Whether it answers with 206 although nobody asked for a range.
        silent: Whether each of the next requests gets no answer at all, one each time.
        piece_bytes, pause: How many bytes to send at once, and the seconds between two pieces.
        headers: More of them.
    """

    body: bytes = b""
    statuses: list[int | tuple[int, str]] = attrs.field(factory=list)
    cut_after: list[int] = attrs.field(factory=list)
    stall_after: list[int] = attrs.field(factory=list)
    ranges: bool = True
    etag: str | None = None
    redirect: str | None = None
    length: bool = True
    heeds_if_range: bool = True
    shift: int = 0
    always_partial: bool = False
    silent: list[bool] = attrs.field(factory=list)
    piece_bytes: int = 1 << 18
    pause: float = 0.0
    headers: Mapping[str, str] = attrs.field(factory=dict)

    def validator(self) -> str:
        return f'"{hashlib.sha256(self.body).hexdigest()[:16]}"' if self.etag is None else self.etag


@attrs.define(eq=False)
class HttpServer:
    """The running server.

    Attributes:
        url: Where it is, without a slash at the end.
        pages: What it has, by path.
        requests: Every request: method, path and headers.
        sent: Bytes of bodies that were sent, in all.
        stalled: Set when the first answer stalls.
    """

    url: str = ""
    pages: dict[str, Page] = attrs.field(factory=dict)
    requests: list[tuple[str, str, dict[str, str]]] = attrs.field(factory=list)
    sent: int = 0
    stalled: trio.Event = attrs.field(factory=trio.Event)

    def ranges(self) -> list[str | None]:
        """The Range of every request."""
        return [headers.get("range") for _, _, headers in self.requests]

    async def serve(self, stream: trio.abc.Stream) -> None:
        connection = h11.Connection(h11.SERVER)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
            async with stream:
                while True:
                    event = connection.next_event()
                    if event is h11.NEED_DATA:
                        connection.receive_data(bytes(await stream.receive_some(65536)))
                    elif isinstance(event, h11.Request):
                        if not await self._answer(connection, stream, event):
                            return
                    elif isinstance(event, h11.EndOfMessage):
                        if connection.our_state is h11.MUST_CLOSE:
                            return
                        connection.start_next_cycle()
                    elif isinstance(event, h11.ConnectionClosed):
                        return

    async def _answer(self, connection: h11.Connection, stream: trio.abc.Stream, request: h11.Request) -> bool:
        path = request.target.decode().partition("?")[0]
        headers = {name.decode(): value.decode() for name, value in request.headers}
        self.requests.append((request.method.decode(), path, headers))
        page = self.pages.get(path)
        if page is None:
            return await self._send(connection, stream, 404, {}, b"not here\n")
        if page.silent and page.silent.pop(0):
            self.stalled.set()
            await trio.sleep_forever()
        if page.statuses:
            status = page.statuses.pop(0)
            number, wait = status if isinstance(status, tuple) else (status, "")
            return await self._send(connection, stream, number, {"retry-after": wait} if wait else {}, b"not now\n")
        if page.redirect is not None:
            return await self._send(connection, stream, 302, {"location": page.redirect}, b"")
        more = dict(page.headers)
        if page.validator():
            more["etag"] = page.validator()
        body, status_code = page.body, 200
        asked = headers.get("range") if page.ranges else None
        if asked is not None and page.heeds_if_range and headers.get("if-range", page.validator()) != page.validator():
            asked = None
        if asked is not None or page.always_partial:
            first = int(asked.removeprefix("bytes=").partition("-")[0]) + page.shift if asked is not None else 0
            if first >= len(body):
                more["content-range"] = f"bytes */{len(body)}"
                return await self._send(connection, stream, 416, more, b"")
            more["content-range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
            body, status_code = body[first:], 206
        if request.method == b"HEAD":
            return await self._send(connection, stream, status_code, more, b"", length=len(body))
        return await self._send(connection, stream, status_code, more, body, page=page)

    async def _send(
        self,
        connection: h11.Connection,
        stream: trio.abc.Stream,
        status: int,
        headers: Mapping[str, str],
        body: bytes,
        *,
        page: Page | None = None,
        length: int | None = None,
    ) -> bool:
        """Send an answer; tells whether the connection can go on."""
        fields = [*headers.items()]
        if page is None or page.length:
            fields.append(("content-length", str(len(body) if length is None else length)))
        else:
            fields.append(("connection", "close"))
        await stream.send_all(connection.send(h11.Response(status_code=status, headers=fields)) or b"")
        cut = page.cut_after.pop(0) if page is not None and page.cut_after else None
        stall = page.stall_after.pop(0) if page is not None and page.stall_after else None
        body = body[: cut if cut is not None else stall]
        step = page.piece_bytes if page is not None else len(body)
        for start in range(0, len(body), step or 1):
            piece = body[start : start + step]
            self.sent += len(piece)
            await stream.send_all(connection.send(h11.Data(data=piece)) or b"")
            if page is not None and page.pause:
                await trio.sleep(page.pause)
        if cut is not None:
            return False
        if stall is not None:
            self.stalled.set()
            await trio.sleep_forever()
        if length is None:
            await stream.send_all(connection.send(h11.EndOfMessage()) or b"")
        return length is None


@asynccontextmanager
async def http_server() -> AsyncIterator[HttpServer]:
    """A server on a port of its own of 127.0.0.1, for the length of the block."""
    server = HttpServer()
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(functools.partial(trio.serve_tcp, server.serve, 0, host="127.0.0.1"))
        server.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        yield server
        nursery.cancel_scope.cancel()
