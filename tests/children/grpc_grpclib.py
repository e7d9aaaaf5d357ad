"""The same calls as grpc_core.py, served by grpclib, and nothing of trio_sup but the messages."""

import argparse
import asyncio
import os
import signal
import time
from contextlib import asynccontextmanager

from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.server import Server

from trio_sup.protocol import backend_pb2 as pb
from trio_sup.protocol import health_pb2

TOKEN = os.environ.get("LOCALAI_GRPC_AUTH_TOKEN", "")

cancelled: list[str] = []
changed = asyncio.Condition()


@asynccontextmanager
async def noting(name):
    """Remember if the call is cancelled within the block."""
    try:
        yield
    except asyncio.CancelledError:
        async with changed:
            cancelled.append(name)
            changed.notify_all()
        raise


async def hang(name):
    async with noting(name):
        await asyncio.Event().wait()


async def health(stream):
    await stream.recv_message()
    await stream.send_message(pb.Reply(message=b"OK"))


async def check(stream):
    await stream.recv_message()
    await stream.send_message(health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING))


async def free(stream):
    await stream.recv_message()
    await stream.send_message(pb.Result(success=True))


async def predict(stream):
    request = await stream.recv_message()
    kind, _, rest = request.Prompt.partition(":")
    message = request.Prompt.encode()
    if kind == "hang":
        await hang("Predict")
    elif kind == "fail":
        raise GRPCError(Status.FAILED_PRECONDITION, "model not loaded: größer")
    elif kind == "size":
        message = b"x" * int(rest)
    elif kind == "deadline":
        message = str(stream.deadline.time_remaining() if stream.deadline else None).encode()
    elif kind == "metadata":
        message = stream.metadata.get(rest, "").encode()
    await stream.send_message(pb.Reply(message=message))


async def predict_stream(stream):
    request = await stream.recv_message()
    async with noting("PredictStream"):
        for number in range(request.Tokens):
            await stream.send_message(pb.Reply(message=request.Prompt.encode(), tokens=number))
        if request.Prompt == "hang":
            await asyncio.Event().wait()
    if request.Prompt == "fail":
        raise GRPCError(Status.RESOURCE_EXHAUSTED, "no more")


async def collect(stream):
    texts = []
    async for request in stream:
        texts.append(request.Prompt)
        if request.Prompt == "hang":
            await hang("Collect")
        if request.Prompt == "fail":
            raise GRPCError(Status.INVALID_ARGUMENT, "not that one")
        if request.Prompt == "enough":
            break
    await stream.send_message(pb.Reply(message=",".join(texts).encode(), tokens=len(texts)))


async def forward(stream):
    async with noting("Forward"):
        async for request in stream:
            if request.path == "fail":
                raise GRPCError(Status.ABORTED, "as asked")
            if request.path == "stop":
                return
            await stream.send_message(pb.ForwardReply(body_chunk=request.body_chunk))


async def wait_cancelled(stream):
    request = await stream.recv_message()
    async with changed:
        await asyncio.wait_for(changed.wait_for(lambda: len(cancelled) >= request.Tokens), 10)
        await stream.send_message(pb.Reply(message=",".join(cancelled).encode(), tokens=len(cancelled)))


def authorized(function):
    async def wrapped(stream):
        if TOKEN and stream.metadata.get("authorization") != f"Bearer {TOKEN}":
            raise GRPCError(Status.UNAUTHENTICATED, "missing or wrong token")
        await function(stream)

    return wrapped


class Service:
    def __mapping__(self):
        uu, us, su, ss = Cardinality
        check_types = (health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse)
        calls = {
            "/backend.Backend/Health": (health, uu, pb.HealthMessage, pb.Reply),
            "/backend.Backend/Free": (free, uu, pb.HealthMessage, pb.Result),
            "/backend.Backend/Predict": (predict, uu, pb.PredictOptions, pb.Reply),
            "/backend.Backend/PredictStream": (predict_stream, us, pb.PredictOptions, pb.Reply),
            "/backend.Backend/Forward": (forward, ss, pb.ForwardRequest, pb.ForwardReply),
            "/grpc.health.v1.Health/Check": (check, uu, *check_types),
            "/test.Peer/Collect": (collect, su, pb.PredictOptions, pb.Reply),
            "/test.Peer/Cancelled": (wait_cancelled, uu, pb.PredictOptions, pb.Reply),
        }
        return {path: Handler(authorized(function), *rest) for path, (function, *rest) in calls.items()}


async def serve(address):
    host, _, port = address.rpartition(":")
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = Server([Service()])
    await server.start(host.strip("[]"), int(port))
    print(f"serving {time.monotonic()}", flush=True)
    await stop.wait()
    server.close()
    await server.wait_closed()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--addr", required=True)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before it serves")
    options = parser.parse_args()
    time.sleep(options.delay)
    asyncio.run(serve(options.addr))


if __name__ == "__main__":
    main()
