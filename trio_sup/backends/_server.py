"""The base of backends: what the wire contract asks of every one of them."""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import resource
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.server import Stream

from ..protocol import MESSAGE_LIMIT_BYTES, backend_pb2, health_pb2

_log = logging.getLogger("trio_sup.backends")
logging.getLogger("hpack").setLevel(logging.INFO)  # below, it writes every header to its log, tokens included

_BACKEND = backend_pb2.DESCRIPTOR.services_by_name["Backend"]
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"]


class Abort(Exception):
    """Raised by a handler to end its call with a status other than OK.

    Args:
        status: Name of the gRPC status, such as ``"INVALID_ARGUMENT"``.
        message: What the caller is told.
    """

    def __init__(self, status: str, message: str) -> None:
        super().__init__(status, message)
        self.status = Status[status]
        self.message = message


class BackendServer:
    """Define the RPCs you offer as methods of their name, and hand an object of your class to `run`.

    ``async def Predict(self, request) -> Reply`` answers a unary call; an async generator of the same name answers a
    stream; where the client streams as well, the argument is an async iterator of requests. RPCs you do not define
    answer UNIMPLEMENTED. Raise `Abort` to refuse a call; any other exception answers INTERNAL, and the server lives on.

    All handlers share one asyncio loop: give work that computes for longer than some milliseconds to
    `asyncio.to_thread`, or Health will be late.

    Taken care of: the token in LOCALAI_GRPC_AUTH_TOKEN (then every call must carry it), requests meant for another
    model than the one loaded, the message limit, and the standard health service. If you define ``__init__``, call
    ``super().__init__()`` in it.

    Attributes:
        model: ``Model`` of the last LoadModel that succeeded; empty before.
    """

    def __init__(self) -> None:
        self.model = ""
        self._token = os.environ.get("LOCALAI_GRPC_AUTH_TOKEN", "")
        self._stopping = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._running = 0

    # ---- what every backend answers; override at will

    async def Health(self, request: backend_pb2.HealthMessage) -> backend_pb2.Reply:
        return backend_pb2.Reply(message=b"OK")

    async def Free(self, request: backend_pb2.HealthMessage) -> backend_pb2.Result:
        return backend_pb2.Result(success=True)

    async def LoadModel(self, request: backend_pb2.ModelOptions) -> backend_pb2.Result:
        return backend_pb2.Result(success=True)

    async def Status(self, request: backend_pb2.HealthMessage) -> backend_pb2.StatusResponse:
        kinds = backend_pb2.StatusResponse
        resident_bytes = _resident_bytes()
        return kinds(
            state=kinds.READY if self.model else kinds.UNINITIALIZED,
            memory=backend_pb2.MemoryUsageData(total=resident_bytes, breakdown={"resident": resident_bytes}),
        )

    # ---- the life of the server

    def __mapping__(self) -> dict[str, Handler]:
        """What grpclib serves: every RPC of the contract, so that the token is asked for even by those not offered."""
        health = {"Check": self._check, "Watch": self._watch}
        offered = [(method, getattr(self, method.name, None)) for method in _BACKEND.methods]
        offered += [(method, health[method.name]) for method in _HEALTH.methods]
        return {_path(method): self._handler(method, function) for method, function in offered}

    async def drain(self, grace: float) -> None:
        """Refuse new calls, and wait until those in flight have ended, for at most *grace* seconds."""
        self._stopping.set()
        try:
            await asyncio.wait_for(self._idle.wait(), grace)
        except TimeoutError:
            _log.warning("%d call(s) were still running after %g s", self._running, grace)

    def _handler(self, method: MethodDescriptor, function: Any) -> Handler:
        async def serve(stream: Stream[Any, Any]) -> None:
            self._authorize(stream)
            if self._stopping.is_set():
                raise GRPCError(Status.UNAVAILABLE, "the backend is shutting down")
            self._running += 1
            self._idle.clear()
            try:
                await self._answer(method, function, stream)
            except Abort as error:
                raise GRPCError(error.status, error.message) from error
            except GRPCError:
                raise
            except Exception as error:
                _log.exception("%s failed", method.name)
                raise GRPCError(Status.INTERNAL, f"{type(error).__name__}: {error}") from error
            finally:
                self._running -= 1
                if not self._running:
                    self._idle.set()

        streaming = (method.client_streaming, method.server_streaming)
        cardinality = next(kind for kind in Cardinality if kind.value == streaming)
        return Handler(serve, cardinality, GetMessageClass(method.input_type), GetMessageClass(method.output_type))

    def _authorize(self, stream: Stream[Any, Any]) -> None:
        given = str(stream.metadata.get("authorization", "")) if stream.metadata else ""
        if self._token and not hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
            raise GRPCError(Status.UNAUTHENTICATED, "missing or wrong token")

    async def _answer(self, method: MethodDescriptor, function: Any, stream: Stream[Any, Any]) -> None:
        if function is None:
            raise Abort("UNIMPLEMENTED", f"this backend does not offer {method.name}")
        _limit_messages(stream)
        argument: Any = stream if method.client_streaming else await self._request(stream)
        if method.server_streaming:
            async with aclosing(function(argument)) as replies:
                async for reply in replies:
                    await _send(stream, reply)
            return
        reply = await function(argument)
        if method is _LOAD_MODEL and reply.success:
            self.model = argument.Model
        await _send(stream, reply)

    async def _request(self, stream: Stream[Any, Any]) -> Any:
        request: Any = await stream.recv_message()
        if request is None:
            raise Abort("INVALID_ARGUMENT", "the request has no message")
        wanted = getattr(request, "ModelIdentity", "")
        if wanted and self.model and wanted != self.model:
            raise Abort("NOT_FOUND", f"model identity mismatch: {self.model!r} is loaded, {wanted!r} was asked for")
        return request

    # ---- the standard health service

    async def _check(self, request: health_pb2.HealthCheckRequest) -> health_pb2.HealthCheckResponse:
        if request.service not in _KNOWN_SERVICES:
            raise Abort("NOT_FOUND", f"unknown service {request.service!r}")
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)

    async def _watch(self, request: health_pb2.HealthCheckRequest) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        known = request.service in _KNOWN_SERVICES
        kinds = health_pb2.HealthCheckResponse
        yield kinds(status=kinds.SERVING if known else kinds.SERVICE_UNKNOWN)
        await self._stopping.wait()
        if known:
            yield kinds(status=kinds.NOT_SERVING)


_LOAD_MODEL = _BACKEND.methods_by_name["LoadModel"]
_KNOWN_SERVICES = ("", _BACKEND.full_name)


def _resident_bytes() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _path(method: MethodDescriptor) -> str:
    service: ServiceDescriptor = method.containing_service
    return f"/{service.full_name}/{method.name}"


def _limit_messages(stream: Stream[Any, Any]) -> None:
    """grpclib takes messages of up to 4 GiB: refuse a long one when its length has arrived."""
    buffer = stream._stream.buffer
    read: Callable[[int], Awaitable[bytes]] = buffer.read

    async def read_bounded(size: int) -> bytes:
        _check_size(size)
        return await read(size)

    buffer.read = read_bounded  # type: ignore[method-assign]  # there is no hook


async def _send(stream: Stream[Any, Any], reply: Message) -> None:
    _check_size(reply.ByteSize())
    await stream.send_message(reply)


def _check_size(size: int) -> None:
    if size > MESSAGE_LIMIT_BYTES:
        raise GRPCError(
            Status.RESOURCE_EXHAUSTED, f"a message of {size} bytes is longer than the limit of {MESSAGE_LIMIT_BYTES}"
        )
