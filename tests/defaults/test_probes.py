"""The probes that speak gRPC, against a real gRPC server; and the one that says nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
import trio

from tests.defaults.probing import target
from trio_sup import CallFailed
from trio_sup.bridge import open_channel
from trio_sup.defaults._check_failed import CheckFailed
from trio_sup.defaults._probes import GrpcHealthProbe, LocalAIProbe, TcpProbe
from trio_sup.protocol import HEALTH, HEALTH_CHECK, backend_pb2, health_pb2
from trio_sup.strategies import Probe

Status = health_pb2.HealthCheckResponse


@contextmanager
def serving(path: str, answer: Callable[[bytes], Any]) -> Iterator[int]:
    """A server on grpc's C core that answers one method; requests arrive as bytes."""

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
        def service(self, details: Any) -> Any:
            if details.method != path:
                return None
            return grpc.unary_unary_rpc_method_handler(
                lambda request, context: answer(request), response_serializer=lambda reply: reply.SerializeToString()
            )

    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
    server.add_generic_rpc_handlers((Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


async def check(probe: Probe, port: int) -> None:
    with trio.fail_after(10):
        async with open_channel(f"127.0.0.1:{port}") as channel:
            await probe.check(target(port, channel=channel))


async def test_localai_is_ready_on_exactly_ok() -> None:
    with serving(HEALTH, lambda _: backend_pb2.Reply(message=b"OK")) as port:
        await check(LocalAIProbe(), port)


@pytest.mark.parametrize("message", [b"", b"ok", b"OK\n", b"OK ", b"loading", b"\xff" * 10000])
async def test_localai_is_not_ready_on_anything_else_and_shows_it(message: bytes) -> None:
    with serving(HEALTH, lambda _: backend_pb2.Reply(message=message)) as port, pytest.raises(CheckFailed) as caught:
        await check(LocalAIProbe(), port)
    assert repr(message)[:20] in str(caught.value)
    assert len(str(caught.value)) < 300


async def test_a_server_without_the_method_is_not_ready() -> None:
    with serving("/nothing", lambda _: None) as port:
        for probe in (LocalAIProbe(), GrpcHealthProbe()):
            with pytest.raises(CallFailed, match="UNIMPLEMENTED"):
                await check(probe, port)


async def test_grpc_health_asks_about_the_service() -> None:
    asked = []

    def answer(request: bytes) -> Any:
        asked.append(health_pb2.HealthCheckRequest.FromString(request).service)
        return Status(status=Status.SERVING)

    with serving(HEALTH_CHECK, answer) as port:
        await check(GrpcHealthProbe(), port)
        await check(GrpcHealthProbe(service="chat"), port)
    assert asked == ["", "chat"]


@pytest.mark.parametrize(
    ("status", "shown"), [(0, "UNKNOWN"), (2, "NOT_SERVING"), (3, "SERVICE_UNKNOWN"), (77, "in unknown state 77")]
)
async def test_grpc_health_is_ready_on_serving_only(status: Any, shown: str) -> None:
    not_ready = pytest.raises(CheckFailed, match=f"service 'chat' is {shown}")
    with serving(HEALTH_CHECK, lambda _: Status(status=status)) as port, not_ready:
        await check(GrpcHealthProbe("chat"), port)


async def test_tcp_connects_to_nobody() -> None:
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    async with listener:
        await TcpProbe().check(target(listener.socket.getsockname()[1]))
        with trio.move_on_after(0.05) as accept_scope:
            await listener.accept()
    assert accept_scope.cancelled_caught


def test_they_say_what_they_need_and_prove() -> None:
    grpc_probes = (LocalAIProbe(), GrpcHealthProbe())
    assert all(probe.needs_listener and probe.speaks_grpc for probe in grpc_probes)
    assert TcpProbe().needs_listener
    assert not TcpProbe().speaks_grpc
