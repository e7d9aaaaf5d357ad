"""A gRPC server on grpcio's C core with one worker thread, which LoadModel keeps busy: Health has to wait for it.

LoadModel of the model ``compute SECONDS`` uses the processor for so long, that of ``deadlock`` waits for what never
comes, and that of ``die`` ends the process.
"""

import argparse
import os
import signal
import threading
import time
from concurrent import futures

import grpc

from trio_sup.protocol import backend_pb2 as pb


def load_model(request, context):
    kind, _, seconds = request.Model.partition(" ")
    if kind == "deadlock":
        threading.Event().wait()
    if kind == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    print("loading", request.Model, flush=True)
    until = time.monotonic() + float(seconds)
    while time.monotonic() < until:
        sum(range(10_000))
    return pb.Result(success=True)


def handler(function, request_type):
    return grpc.unary_unary_rpc_method_handler(
        function, request_deserializer=request_type.FromString, response_serializer=lambda m: m.SerializeToString()
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--addr", required=True)
    options = parser.parse_args()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
    calls = {
        "Health": handler(lambda request, context: pb.Reply(message=b"OK"), pb.HealthMessage),
        "LoadModel": handler(load_model, pb.ModelOptions),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("backend.Backend", calls),))
    server.add_insecure_port(options.addr)
    server.start()
    # What computes or hangs cannot be waited for at the end.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    signal.pause()


if __name__ == "__main__":
    main()
