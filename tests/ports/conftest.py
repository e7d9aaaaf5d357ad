"""Real children and real ports for the tests of the port layer."""

from __future__ import annotations

import contextlib
import os
import random
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trio_sup.engine._port_hold import hold_port
from trio_sup.engine._sockets import SocketTable

CHILDREN = Path(__file__).parent / "children"

StartChild = Callable[..., tuple[int, str]]


@pytest.fixture
def start_child() -> Iterator[StartChild]:
    """Starts a program of `children`, waits for its first line, and tells pid and line; ended with the test."""
    with contextlib.ExitStack() as stack:

        def start(program: str, *arguments: object) -> tuple[int, str]:
            process = subprocess.Popen(
                [sys.executable, CHILDREN / program, *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], 60)[0], f"{program} says nothing"
            return process.pid, process.stdout.readline().decode().strip()

        yield start


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port that nobody uses, outside the range from which the kernel serves clients."""
    while True:
        port = random.randint(22000, 31999)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as reservation:
            if _is_free(port, reservation):
                yield port
                return


def _is_free(port: int, reservation: socket.socket) -> bool:
    try:
        # The UDP namesake of the port keeps tests that run at the same time off it.
        reservation.bind(("127.0.0.1", port))
    except OSError:
        return False
    placeholder = hold_port(port)
    if placeholder is None:
        return False
    placeholder.close()
    with SocketTable() as table:
        return not table.sockets_on(port)  # remnants of an earlier test refuse servers that bind exclusively


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """Runs the block without root's powers."""
    own = os.geteuid()
    if own == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(own)
