"""Starting backends written with the helper, and calling them with grpcio: a client that knows nothing of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from tests.conftest import child_command

AUTHOR = child_command("grpc_author")
STORE = [sys.executable, "-m", "trio_sup.backends.store"]
TIMEOUT = 20
LIMITS = [("grpc.max_receive_message_length", 2**27), ("grpc.max_send_message_length", 2**27)]

M = TypeVar("M", bound=Message)


@contextmanager
def serving(
    command: Sequence[str], *, address: str = "127.0.0.1:0", token: str = ""
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a backend, and give its process and its address; killed at the end, or after a minute."""
    environment = {**os.environ, "LOCALAI_GRPC_AUTH_TOKEN": token}
    with subprocess.Popen(
        [*command, "--addr", address], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        bound = threading.Timer(60, process.kill)
        bound.start()
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            match = re.fullmatch(r"serving on (\S+) at \d+(\.\d+)?\n", line)
            assert match, line
            yield process, match[1]
        finally:
            bound.cancel()
            process.kill()
            assert process.stderr is not None
            print(process.stderr.read())


class Client:
    """Calls by name, each within a time limit."""

    def __init__(self, channel: Any, token: str = "") -> None:
        self.channel = channel
        self.metadata = [("authorization", f"Bearer {token}")] if token else []

    def call(self, name: str, request: Message, reply_type: type[M]) -> M:
        reply: M = self._method("unary_unary", name, reply_type)(request, timeout=TIMEOUT, metadata=self.metadata)
        return reply

    def stream(self, name: str, request: Message, reply_type: type[M]) -> Iterator[M]:
        replies: Iterator[M] = self._method("unary_stream", name, reply_type)(
            request, timeout=TIMEOUT, metadata=self.metadata
        )
        return replies

    def chat(self, name: str, requests: Iterator[Message], reply_type: type[M]) -> Iterator[M]:
        replies: Iterator[M] = self._method("stream_stream", name, reply_type)(
            requests, timeout=TIMEOUT, metadata=self.metadata
        )
        return replies

    def _method(self, kind: str, name: str, reply_type: type[Message]) -> Any:
        path = name if name.startswith("/") else f"/backend.Backend/{name}"
        return getattr(self.channel, kind)(
            path, request_serializer=lambda m: m.SerializeToString(), response_deserializer=reply_type.FromString
        )


@contextmanager
def client_of(address: str, token: str = "") -> Iterator[Client]:
    with grpc.insecure_channel(address, options=LIMITS) as channel:
        yield Client(channel, token)
