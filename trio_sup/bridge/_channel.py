"""A channel: the calls to one address."""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import aclosing, asynccontextmanager, closing, contextmanager
from types import TracebackType
from typing import Any, TypeVar

import grpclib.client
import trio
import trio_asyncio
from grpclib.config import Configuration
from grpclib.const import Cardinality

from ..errors import CallFailed, InvalidValue
from ..protocol.address import join_address
from ._call import Call, Reply, Request
from ._codec import Codec
from ._connection import GrpclibChannel
from ._failure import PeerEnded, call_failed
from ._streams import Replies, StreamCall

_Result = TypeVar("_Result")

# A stream that is read slowly fills its own window; the connection's must hold several, or it would stop all others.
_WINDOWS = Configuration(http2_stream_window_size=2**20, http2_connection_window_size=2**24)


class Channel:
    """Calls to one address. It connects at the first call, and again after the connection was lost.

    Calls may be made from any task, many at a time. A call raises `CallFailed` for everything that can go wrong,
    whatever the peer answers. Cancelling a call ends it: the server is told, and the channel stays usable.

    Every call takes a *path* (``/package.Service/Method``), a *timeout* in seconds for the whole call (the server is
    told; after it the call fails with DEADLINE_EXCEEDED) and *metadata* (names in lower case).

    Cannot be built by hand: see `Bridge.channel` and `open_channel`.
    """

    def __init__(
        self,
        loop: trio_asyncio.TrioEventLoop,
        host: str,
        port: int,
        token: str | None,
        forget: Callable[[Channel], None],
    ) -> None:
        if token is not None and not (token and token.isascii() and token.isprintable()):
            raise InvalidValue("(hidden)", "a token must be non-empty printable ASCII text")
        self._loop = loop
        self._host = host
        self._port = port
        self._metadata = {"authorization": f"Bearer {token}"} if token else {}
        self._forget = forget
        self._grpclib: GrpclibChannel | None = None
        self._running: set[trio.CancelScope] = set()
        self._calls = 0
        self._parting = False
        self._closed = False

    def __repr__(self) -> str:
        return f"<Channel to {self.address}{', closed' if self._closed else ''}>"

    @property
    def address(self) -> str:
        """``host:port`` it connects to."""
        return join_address(self._host, self._port)

    def local_address(self) -> tuple[str, int] | None:
        """Our end of the live connection: host and port; None if there is none."""
        return self._socket_name("sockname")

    def remote_address(self) -> tuple[str, int] | None:
        """The server's end of the live connection: host and port; None if there is none."""
        return self._socket_name("peername")

    def _socket_name(self, which: str) -> tuple[str, int] | None:
        transport = self._transport()
        name = transport.get_extra_info(which) if transport is not None else None
        return (name[0], name[1]) if name else None

    def _transport(self) -> asyncio.Transport | None:
        """The transport of the live connection; grpclib deletes its own reference once that is lost."""
        protocol = self._grpclib._protocol if self._grpclib is not None else None
        return getattr(protocol.connection, "_transport", None) if protocol is not None else None

    # ---- calls

    async def unary_unary(
        self,
        path: str,
        request: Request,
        reply_type: type[Reply],
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send one message and wait for the one that answers it."""
        call = self._call(path, Cardinality.UNARY_UNARY, type(request), reply_type, timeout, metadata)
        with self._in_use():
            return await self._run(call, functools.partial(call.unary, request))

    @asynccontextmanager
    async def unary_stream(
        self,
        path: str,
        request: Request,
        reply_type: type[Reply],
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Replies[Request, Reply]]:
        """Send one message and read those that answer it with ``async for``; leaving the block ends the call."""
        call = self._call(path, Cardinality.UNARY_STREAM, type(request), reply_type, timeout, metadata)
        with self._in_use(), closing(call):
            await self._run(call, call.start)
            await self._unless_ended(call, functools.partial(call.send, request, end=True))
            yield Replies(self, call)

    async def stream_unary(
        self,
        path: str,
        requests: Iterable[Request] | AsyncIterable[Request],
        request_type: type[Request],
        reply_type: type[Reply],
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send many messages and wait for the one that answers them.

        An error of *requests* ends the call and is raised as it is. If it is an async generator, it is closed.
        """
        call = self._call(path, Cardinality.STREAM_UNARY, request_type, reply_type, timeout, metadata)
        failures: list[Exception] = []

        @trio.lowlevel.enable_ki_protection
        async def send_all(both: trio.CancelScope) -> None:
            try:
                async with aclosing(_each(requests)) as each:
                    async for request in each:
                        if not await self._unless_ended(call, functools.partial(call.send, request)):
                            return
                await self._unless_ended(call, call.end)
            except Exception as error:
                failures.append(error)
                both.cancel()

        with self._in_use(), closing(call):
            await self._run(call, call.start)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_all, nursery.cancel_scope, name=f"sends to {path}")
                try:
                    return await self._run(call, call.receive_only)
                except CallFailed as failure:
                    failures.append(failure)
                finally:
                    nursery.cancel_scope.cancel()
            raise failures[0]

    @asynccontextmanager
    async def stream_stream(
        self,
        path: str,
        request_type: type[Request],
        reply_type: type[Reply],
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> AsyncIterator[StreamCall[Request, Reply]]:
        """Send and read as you like within the block; leaving it ends the call."""
        call = self._call(path, Cardinality.STREAM_STREAM, request_type, reply_type, timeout, metadata)
        with self._in_use(), closing(call):
            await self._run(call, call.start)
            yield StreamCall(self, call)

    # ---- end

    def part(self) -> None:
        """Hang up as soon as no call is under way, since the server is about to end: some wait for that.

        A call that is made later connects once more, and hangs up again.
        """
        self._parting = True
        self._hang_up_if_unused()

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1
            self._hang_up_if_unused()

    def _hang_up_if_unused(self) -> None:
        if self._parting and not self._calls and self._grpclib is not None:
            self._grpclib.close()
            self._grpclib = None

    async def aclose(self) -> None:
        """End all calls, which then fail with UNAVAILABLE, and the connection. May be repeated."""
        transport = self._transport()
        self._shut()
        if transport is not None and self._loop.is_running():
            # The socket is closed by a callback that is in the loop's queue by now; the loop never waits for long.
            with trio.CancelScope(shield=True):
                await self._loop.synchronize()
        await trio.lowlevel.checkpoint()

    async def __aenter__(self) -> Channel:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def _shut(self) -> None:
        """Close without waiting: the loop's next round closes the socket."""
        self._closed = True
        self._forget(self)
        for scope in self._running:
            scope.cancel()
        transport = self._transport()
        if self._grpclib is not None:
            self._grpclib.close()
        if transport is not None:
            transport.abort()  # a peer that does not read could keep a polite close waiting for ever

    # ---- the border between Trio and asyncio

    def _call(
        self,
        path: str,
        cardinality: Cardinality,
        request_type: type[Request],
        reply_type: type[Reply],
        timeout: float | None,
        metadata: Mapping[str, str] | None,
    ) -> Call[Request, Reply]:
        def open_stream() -> grpclib.client.Stream[Request, Reply]:
            if self._grpclib is None:
                # Made here, where asyncio's current loop is ours whatever task asked.
                self._grpclib = GrpclibChannel(self._host, self._port, codec=Codec(), config=_WINDOWS)
            return self._grpclib.request(
                path, cardinality, request_type, reply_type, metadata={**self._metadata, **(metadata or {})}
            )

        deadline = math.inf if timeout is None else trio.current_time() + timeout
        return Call(path, open_stream, reply_type, timeout, deadline)

    async def _run(self, call: Call[Any, Any], step: Callable[[], Coroutine[Any, Any, _Result]]) -> _Result:
        """Run one step of *call* on the loop. Every failure becomes `CallFailed`; only `Cancelled` passes."""
        with trio.CancelScope(deadline=call.deadline) as call_scope:
            if self._closed:
                raise CallFailed(call.path, "UNAVAILABLE", f"the channel to {self.address} is closed")
            self._running.add(call_scope)
            try:
                result: _Result = await self._loop.run_aio_coroutine(step())
                return result
            except Exception as error:
                raise call_failed(call.path, error, call.stream) from error
            except asyncio.CancelledError as error:
                # Not by Trio: somebody cancelled the loop's tasks. It must not get among Trio's exceptions.
                raise CallFailed(call.path, "UNAVAILABLE", f"the call to {self.address} was interrupted") from error
            finally:
                self._running.discard(call_scope)
        if self._closed:
            raise CallFailed(call.path, "UNAVAILABLE", f"the channel to {self.address} was closed during the call")
        raise CallFailed(call.path, "DEADLINE_EXCEEDED", f"no answer from {self.address} within {call.timeout:g} s")

    async def _unless_ended(self, call: Call[Any, Any], step: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Run a sending step; False if the server has ended the call, whose answer then says why."""
        try:
            await self._run(call, step)
        except CallFailed as failure:
            if isinstance(failure.__cause__, PeerEnded):
                return False
            raise
        return True


async def _each(requests: Iterable[Request] | AsyncIterable[Request]) -> AsyncGenerator[Request, None]:
    if isinstance(requests, AsyncGenerator):
        async with aclosing(requests):
            async for request in requests:
                yield request
    elif isinstance(requests, AsyncIterable):
        async for request in requests:
            yield request
    else:
        for request in requests:
            yield request
