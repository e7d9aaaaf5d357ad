"""A gRPC server on grpcio's C core: the other implementation that the bridge must get on with.

Serves Health, Free, Predict, PredictStream and Forward of the LocalAI contract, grpc.health.v1, and for tests
/test.Peer/Collect (client streaming) and /test.Peer/Cancelled (waits until so many calls were seen to be cancelled).
The prompt says how Predict behaves: hang, fail, size:N, deadline, metadata:NAME, anything else is echoed.
"""

import argparse
import os
import signal
import threading
import time
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from trio_sup.protocol import backend_pb2 as pb

LIMIT = 50 * 2**20
TOKEN = os.environ.get("LOCALAI_GRPC_AUTH_TOKEN", "")

cancelled: list[str] = []
changed = threading.Condition()


def note_end(name, context):
    """Remember when the call ends; the event is set then."""
    over = threading.Event()

    def note():
        with changed:
            cancelled.append(name)
            changed.notify_all()
        over.set()

    if not context.add_callback(note):
        note()
    return over


def hang(name, context):
    note_end(name, context).wait(60)


def predict(request, context):
    kind, _, rest = request.Prompt.partition(":")
    if kind == "hang":
        hang("Predict", context)
    elif kind == "fail":
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "model not loaded: größer")
    elif kind == "size":
        return pb.Reply(message=b"x" * int(rest))
    elif kind == "deadline":
        return pb.Reply(message=str(context.time_remaining()).encode())
    elif kind == "metadata":
        return pb.Reply(message=dict(context.invocation_metadata()).get(rest, "").encode())
    return pb.Reply(message=request.Prompt.encode())


def predict_stream(request, context):
    over = note_end("PredictStream", context) if request.Prompt == "hang" else None
    for number in range(request.Tokens):
        yield pb.Reply(message=request.Prompt.encode(), tokens=number)
    if over:
        over.wait(60)
    if request.Prompt == "fail":
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no more")


def collect(requests, context):
    texts = []
    for request in requests:
        texts.append(request.Prompt)
        if request.Prompt == "hang":
            hang("Collect", context)
        if request.Prompt == "fail":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not that one")
        if request.Prompt == "enough":
            break
    return pb.Reply(message=",".join(texts).encode(), tokens=len(texts))


def forward(requests, context):
    note_end("Forward", context)
    for request in requests:
        if request.path == "fail":
            context.abort(grpc.StatusCode.ABORTED, "as asked")
        if request.path == "stop":
            return
        yield pb.ForwardReply(body_chunk=request.body_chunk)


def wait_cancelled(request, context):
    with changed:
        changed.wait_for(lambda: len(cancelled) >= request.Tokens, timeout=10)
        return pb.Reply(message=",".join(cancelled).encode(), tokens=len(cancelled))


def handler(kind, function, request_type):
    return getattr(grpc, f"{kind}_rpc_method_handler")(
        function, request_deserializer=request_type.FromString, response_serializer=lambda m: m.SerializeToString()
    )


class Authorize(grpc.ServerInterceptor):
    def __init__(self):
        def refuse(request, context):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "missing or wrong token")

        self.refusal = grpc.unary_unary_rpc_method_handler(refuse)

    def intercept_service(self, continuation, details):
        given = dict(details.invocation_metadata).get("authorization", "")
        return continuation(details) if given == f"Bearer {TOKEN}" else self.refusal


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--addr", required=True)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before it serves")
    options = parser.parse_args()
    time.sleep(options.delay)
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=16),
        interceptors=[Authorize()] if TOKEN else [],
        options=[("grpc.max_receive_message_length", LIMIT), ("grpc.max_send_message_length", LIMIT + 2**20)],
    )
    backend = {
        "Health": handler("unary_unary", lambda request, context: pb.Reply(message=b"OK"), pb.HealthMessage),
        "Free": handler("unary_unary", lambda request, context: pb.Result(success=True), pb.HealthMessage),
        "Predict": handler("unary_unary", predict, pb.PredictOptions),
        "PredictStream": handler("unary_stream", predict_stream, pb.PredictOptions),
        "Forward": handler("stream_stream", forward, pb.ForwardRequest),
    }
    peer = {
        "Collect": handler("stream_unary", collect, pb.PredictOptions),
        "Cancelled": handler("unary_unary", wait_cancelled, pb.PredictOptions),
    }
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler("backend.Backend", backend),
            grpc.method_handlers_generic_handler("test.Peer", peer),
        )
    )
    health_servicer = health.HealthServicer()
    health_servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    server.add_insecure_port(options.addr)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server.start()
    print(f"serving {time.monotonic()}", flush=True)
    stop.wait()
    server.stop(grace=1).wait()


if __name__ == "__main__":
    main()
