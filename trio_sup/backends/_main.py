"""The command line of a backend: serve until told to stop."""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket
import sys
import time
from contextlib import suppress

from grpclib.server import Server

from ..protocol.address import join_address, split_address
from ._server import BackendServer

_GRACE = 5.0  # seconds that calls in flight may take after a polite signal; Source: LocalAI's Python backends


def run(backend: BackendServer) -> None:
    """Serve *backend* on ``--addr host:port`` until SIGTERM or SIGINT, then finish the calls in flight and return.

    Prints ``serving on HOST:PORT at TIME`` (seconds of `time.monotonic`) as soon as it serves.

    Raises:
        SystemExit: 2 if the command line makes no sense, 1 if the address cannot be had; stderr says why.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False, description=type(backend).__doc__)
    parser.add_argument(
        "--addr", type=_address, default=("localhost", 50051), metavar="HOST:PORT", help="where to serve"
    )
    host, port = parser.parse_args().addr
    try:
        asyncio.run(_serve(backend, host, port))
    except OSError as error:
        sys.exit(f"{parser.prog}: error: cannot serve on {join_address(host, port)}: {error.strerror or error}")


def _address(text: str) -> tuple[str, int]:
    try:
        return split_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


async def _serve(backend: BackendServer, host: str, port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = Server([backend])
    await server.start(host, port)
    listener = server._server
    assert isinstance(listener, asyncio.Server)
    bound: socket.socket = listener.sockets[0]
    print(f"serving on {join_address(host, bound.getsockname()[1])} at {time.monotonic()}", flush=True)
    await stop.wait()
    listener.close()  # grpclib's own close would cancel the calls in flight
    await backend.drain(_GRACE)
    server.close()
    with suppress(TimeoutError):
        await asyncio.wait_for(server.wait_closed(), 1)  # from Python 3.12 it waits for clients to hang up
