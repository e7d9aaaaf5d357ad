"""The HTTP probe against a real HTTP server, and against servers that only look like one."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import trio

from tests.defaults.probing import target
from trio_sup import InvalidValue
from trio_sup.defaults._check_failed import CheckFailed
from trio_sup.defaults._http_probe import RESPONSE_BYTES, HttpProbe


class Handler(BaseHTTPRequestHandler):
    """``/STATUS`` answers with it, ``/body/TEXT`` with a text; ``/log`` tells who asked."""

    def do_GET(self) -> None:
        _, first, *rest = self.path.split("/")
        status = int(first) if first.isdigit() else 200
        body = " ".join(rest).encode() if first == "body" else str(self.headers).encode()
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", "/500")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


async def check(probe: HttpProbe, port: int) -> None:
    with trio.fail_after(5):
        await probe.check(target(port))


@pytest.mark.parametrize("status", [200, 204, 301, 399])
async def test_by_default_200_to_399_is_ready_and_redirects_are_not_followed(port: int, status: int) -> None:
    await check(HttpProbe(path=f"/{status}"), port)


@pytest.mark.parametrize("status", [400, 404, 500, 503])
async def test_other_answers_are_not_ready_and_shown(port: int, status: int) -> None:
    with pytest.raises(CheckFailed, match=f"GET /{status} answered {status}"):
        await check(HttpProbe(path=f"/{status}"), port)


@pytest.mark.parametrize(
    ("status", "good"), [(404, True), ([200, 404], True), ("400-404", True), (200, False), ([200, 201], False)]
)
async def test_the_good_statuses_can_be_chosen(port: int, status: Any, good: bool) -> None:
    probe = HttpProbe(path="/404", status=status)
    if good:
        await check(probe, port)
    else:
        with pytest.raises(CheckFailed):
            await check(probe, port)


async def test_the_body_must_contain_the_text(port: int) -> None:
    await check(HttpProbe(path="/body/model/loaded", body="l loaded"), port)
    with pytest.raises(CheckFailed, match="does not contain 'unloaded'"):
        await check(HttpProbe(path="/body/model/loaded", body="unloaded"), port)


async def test_the_request_says_whom_it_asks(port: int) -> None:
    await check(HttpProbe(path="/log", body=f"Host: 127.0.0.1:{port}"), port)


async def test_another_port_is_asked_if_given(port: int) -> None:
    probe = HttpProbe(path="/log", host="localhost", port=port, body=f"Host: localhost:{port}")
    with trio.fail_after(5):
        await probe.check(target(1))
    assert not probe.needs_listener
    assert HttpProbe().needs_listener
    assert not HttpProbe().speaks_grpc


async def test_nobody_there_is_not_ready() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match=r"127\.0\.0\.1"):
            await check(HttpProbe(), held.getsockname()[1])


@pytest.mark.parametrize(
    "options",
    [
        {"path": "x"},
        {"path": "/a b"},
        {"path": "/\r\nX: y"},
        {"status": "200"},
        {"status": "399-200"},
        {"status": []},
        {"status": [True]},
        {"status": 600},
        {"body": ""},
        {"host": "a:b/c"},
        {"port": 0},
        {"port": True},
    ],
)
def test_refuses_options_that_cannot_be_meant(options: dict[str, Any]) -> None:
    (option,) = options
    with pytest.raises(InvalidValue, match=f"^{option}: "):
        HttpProbe(**options)


# ---- servers with vices


@asynccontextmanager
async def answering(answer: Callable[[trio.SocketStream], Awaitable[None]]) -> AsyncIterator[int]:
    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                request += await stream.receive_some()
            with suppress(trio.BrokenResourceError):
                await answer(stream)

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, handle, 0, host="127.0.0.1"))
        with trio.fail_after(10):
            yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def sending(data: bytes) -> Callable[[trio.SocketStream], Awaitable[None]]:
    return lambda stream: stream.send_all(data)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00\xff garbage\r\n\r\n", b"HTTP/1.1 200", b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20000],
)
async def test_what_is_not_http_is_not_ready(data: bytes) -> None:
    async with answering(sending(data)) as port:
        with pytest.raises(CheckFailed, match="was not answered"):
            await check(HttpProbe(), port)


async def test_announcements_before_the_answer_are_passed_over_but_not_for_ever() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    async with answering(sending(early * 3 + b"HTTP/1.1 200 OK\r\n\r\n")) as port:
        await check(HttpProbe(), port)
    async with answering(sending(early * (RESPONSE_BYTES // len(early) + 2))) as port:
        with pytest.raises(CheckFailed, match="no end within"):
            await check(HttpProbe(), port)


async def test_a_body_that_breaks_off_matters_only_if_it_is_looked_at() -> None:
    async with answering(sending(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")) as port:
        await check(HttpProbe(), port)
        await check(HttpProbe(body="half"), port)
        with pytest.raises(CheckFailed, match="broke off"):
            await check(HttpProbe(body="whole"), port)


async def test_a_stream_without_end_is_ready_soon() -> None:
    async def stream_events(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: hello\n\n")
        await trio.sleep_forever()

    async with answering(stream_events) as port:
        with trio.fail_after(1):
            await check(HttpProbe(), port)
            await check(HttpProbe(body="hello"), port)


async def test_no_more_than_64_kib_are_read() -> None:
    async def flood(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await stream.send_all(b"x" * 4096)

    async with answering(flood) as port:
        await check(HttpProbe(), port)
        with pytest.raises(CheckFailed, match="does not contain"):
            await check(HttpProbe(body="y"), port)


async def test_a_text_that_arrives_in_pieces_is_found() -> None:
    async def drip(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for letter in b"<loaded>":
            await stream.send_all(b"1\r\n%c\r\n" % letter)
        await stream.send_all(b"0\r\n\r\n")

    async with answering(drip) as port:
        await check(HttpProbe(body="loaded"), port)
        with pytest.raises(CheckFailed):
            await check(HttpProbe(body="loader"), port)


async def test_the_server_sees_no_reset() -> None:
    """Closing with unread data would send one, and a simple server may die of it."""
    ends = []

    async def answer(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 30000\r\n\r\n" + b"x" * 30000)
        ends.append(await stream.receive_some())

    async with answering(answer) as port:
        for probe in (HttpProbe(), HttpProbe(body="xxx")):
            await check(probe, port)
        with trio.fail_after(5):
            while len(ends) < 2:
                await trio.lowlevel.checkpoint()
    assert ends == [b"", b""]


async def test_cancelled_while_it_waits_it_ends_at_once() -> None:
    async with answering(lambda stream: trio.sleep_forever()) as port:
        with trio.move_on_after(0.05) as scope:
            await check(HttpProbe(), port)
        assert scope.cancelled_caught
