"""A small HTTP server on Trio that gives what a test tells it to, for the indexes of galleries."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from http import HTTPStatus

import attrs
import trio


@attrs.frozen
class Answer:
    """What a path is answered with.

    Attributes:
        stalls: Whether nothing more comes after the body, although more was announced.
        hangs: Whether nothing comes at all.
        gate: What it waits for before it answers.
    """

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = attrs.field(factory=dict)
    stalls: bool = False
    hangs: bool = False
    gate: trio.Event | None = None


@attrs.frozen
class Asked:
    """A request that came."""

    path: str
    headers: Mapping[str, str]


@attrs.define
class IndexServer:
    """Serves `answers` by path; what is not there is 404. An answer with an ``ETag`` is not sent to who has it."""

    port: int
    answers: dict[str, Answer] = attrs.field(factory=dict)
    asked: list[Asked] = attrs.field(factory=list)
    _more: trio.Event = attrs.field(init=False, factory=trio.Event)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    @property
    def paths(self) -> list[str]:
        """The paths that were asked for since this was last looked at."""
        paths = [asked.path for asked in self.asked]
        self.asked.clear()
        return paths

    async def wait_asked(self, *paths: str) -> None:
        """Wait until all of these were asked for."""
        while not set(paths) <= {asked.path for asked in self.asked}:
            await self._more.wait()

    async def handle(self, stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with stream:
                while (asked := await _request(stream)) is not None:
                    self.asked.append(asked)
                    self._more.set()
                    self._more = trio.Event()
                    await self._answer(stream, asked)

    async def _answer(self, stream: trio.SocketStream, asked: Asked) -> None:
        answer = self.answers.get(asked.path, Answer(b"nothing here", 404))
        if answer.hangs:
            await _wait_for_the_end(stream)
            return
        if answer.gate is not None:
            await answer.gate.wait()
        etag = answer.headers.get("ETag")
        if etag is not None and asked.headers.get("if-none-match") == etag:
            answer = Answer(status=304, headers=answer.headers)
        length = len(answer.body) + (1 if answer.stalls else 0)
        head = [
            f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}",
            *(f"{name}: {value}" for name, value in answer.headers.items()),
            *([] if answer.status == 304 else [f"Content-Length: {length}"]),
        ]
        await stream.send_all("\r\n".join([*head, "", ""]).encode("latin-1") + answer.body)
        if answer.stalls:
            await _wait_for_the_end(stream)


async def _wait_for_the_end(stream: trio.SocketStream) -> None:
    while await stream.receive_some():
        pass


async def _request(stream: trio.SocketStream) -> Asked | None:
    head = b""
    while b"\r\n\r\n" not in head:
        more = await stream.receive_some()
        if not more:
            return None
        head += more
    first, *lines = head.decode("latin-1").split("\r\n\r\n")[0].split("\r\n")
    headers = (line.partition(":") for line in lines)
    return Asked(first.split()[1], {name.lower(): value.strip() for name, _, value in headers})


@asynccontextmanager
async def index_server() -> AsyncIterator[IndexServer]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = IndexServer(listener.socket.getsockname()[1])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.serve_listeners, server.handle, [listener]))
        yield server
        nursery.cancel_scope.cancel()
