"""The light backend, under the supervisor and as plain processes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import trio

from trio_sup import BackendSpec, Liveness, Readiness, Supervisor
from trio_sup.engine._port_hold import hold_port
from trio_sup.engine._sockets import SocketTable

CHILD = Path(__file__).parent / "children" / "light.py"
LOOK = 0.004
"""Seconds between two looks at the listeners, as often as the supervisor looks."""


def command(*options: str) -> list[str]:
    """The command of the light backend; the address is to be appended."""
    return [sys.executable, "-I", "-S", str(CHILD), *options]


def spec(*options: str, probe: str, checked_every: float = 0.0) -> BackendSpec:
    """The light backend for the supervisor, with time enough for hundreds to start and to end.

    Args:
        checked_every: Seconds between two checks of readiness and liveness once it is ready; 0 for none.
    """
    return BackendSpec(
        name="light",
        command=command(*options),
        readiness=Readiness(probe=probe, timeout=60, call_timeout=30, period=checked_every),
        liveness=Liveness(probe=probe, call_timeout=30, period=checked_every) if checked_every else None,
        grace=10,
    )


async def start_many(sup: Supervisor, what: BackendSpec, count: int) -> None:
    """Start *count* replicas at once; return when all are ready."""
    async with trio.open_nursery() as nursery:
        for replica in range(count):
            nursery.start_soon(partial(sup.start, what, replica=replica))


@contextmanager
def held_ports(count: int) -> Iterator[list[int]]:
    """Free ports that nobody else is given within the block, and that a child may bind."""
    with ExitStack() as stack:
        ports = []
        for _ in range(count):
            held = hold_port(0)
            assert held is not None
            stack.enter_context(held)
            ports.append(held.getsockname()[1])
        yield ports


@contextmanager
def plain(commands: list[list[str]], *, stdout: int = subprocess.DEVNULL) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Launch *commands* by plain Popen; killed and reaped at the end of the block."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for one in commands:
            processes.append(
                subprocess.Popen(
                    one,
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=subprocess.DEVNULL,
                    bufsize=0,
                    # As the supervisor does: the kernel shares a busy machine out by session, not by process.
                    start_new_session=True,
                )
            )
        yield processes
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def wait_for_listeners(ports: list[int]) -> None:
    """Return when all *ports* accept; it asks the kernel and connects to none."""
    with SocketTable() as table:
        while not table.listening_ports().issuperset(ports):
            time.sleep(LOOK)
