"""Starting the peers in ``tests/children``, each a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from tests.conftest import child_command

PEERS = ("grpc_core", "grpc_grpclib")


def free_port(host: str = "127.0.0.1") -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def running(command: list[str], *, env: dict[str, str] | None = None) -> AsyncIterator[tuple[trio.Process, str]]:
    """Start *command*, and give the process and the first line it prints; ended with the block."""
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, env={**os.environ, **(env or {})})
    assert process.stdout is not None
    try:
        line = b""
        with trio.fail_after(30):
            while not line.endswith(b"\n"):
                received = await process.stdout.receive_some(1)
                assert received, f"{command} ended before it served"
                line += received
        yield process, line.decode()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdout.aclose()


@asynccontextmanager
async def peer(name: str, *arguments: str, port: int = 0, token: str = "") -> AsyncIterator[str]:
    """Run a peer of ``tests/children``, and give its address."""
    address = f"127.0.0.1:{port or free_port()}"
    command = child_command(name, "--addr", address, *arguments)
    async with running(command, env={"LOCALAI_GRPC_AUTH_TOKEN": token}):
        yield address
