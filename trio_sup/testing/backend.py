# Methods are named as their RPCs, and what it prints is for the test that reads it.
# ruff: noqa: N802, T201
"""A backend told by its arguments how to behave: ``python -m trio_sup.testing.backend --addr HOST:PORT [options]``.

It serves gRPC with `trio_sup.backends` unless told otherwise. Prints ``children PID …`` after it has forked, and
``serving on …`` once it serves.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from ..backends import Abort, BackendServer, run
from ..protocol import backend_pb2
from ..protocol.address import split_address

_PAUSE = (sys.executable, "-S", "-c", "import signal; signal.pause()")
_GARBAGE = bytes(range(256)) * 16
_FLOOD_STEP = 0.02  # seconds between two writes


class Scripted(BackendServer):
    """Behaves as its arguments say."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__()
        self._options = options
        self._began = time.monotonic()

    async def Health(self, request: backend_pb2.HealthMessage) -> backend_pb2.Reply:
        if self._options.hang_health:
            await self._stopping.wait()
        if time.monotonic() < self._began + self._options.loading:
            raise Abort("UNAVAILABLE", "still loading")
        return backend_pb2.Reply(message=self._options.health.encode())

    async def Free(self, request: backend_pb2.HealthMessage) -> backend_pb2.Result:
        if self._options.free_hangs:
            await self._stopping.wait()
        if self._options.free_fails:
            raise Abort("INTERNAL", "it does not let go")
        return backend_pb2.Result(success=True)

    async def LoadModel(self, request: backend_pb2.ModelOptions) -> backend_pb2.Result:
        if self._options.load_hangs:
            await self._stopping.wait()
        until = time.monotonic() + self._options.load_takes
        while time.monotonic() < until:
            pass  # as in many servers with one worker, nobody else is answered meanwhile
        if self._options.load_fails:
            return backend_pb2.Result(success=False, message=f"there is no model {request.Model!r}")
        return backend_pb2.Result(success=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trio_sup.testing.backend", allow_abbrev=False, description=__doc__)
    parser.add_argument("--addr", default="127.0.0.1:50051", metavar="HOST:PORT", help="where to serve")
    parser.add_argument("--delay", type=float, default=0.0, metavar="S", help="listen only after S seconds")
    parser.add_argument("--loading", type=float, default=0.0, metavar="S", help="fail Health for S seconds")
    parser.add_argument("--die-after", type=float, metavar="S", help="end by itself after S seconds")
    parser.add_argument("--code", type=int, default=0, metavar="N", help="the exit code of an end by itself")
    parser.add_argument("--ignore-sigterm", action="store_true", help="never hear SIGTERM")
    parser.add_argument("--slow-stop", type=float, default=0.0, metavar="S", help="end S seconds after SIGTERM")
    parser.add_argument("--health", default="OK", metavar="TEXT", help="what Health answers")
    parser.add_argument("--hang-health", action="store_true", help="let Health wait until told to stop")
    parser.add_argument("--free-hangs", action="store_true", help="let Free wait until told to stop")
    parser.add_argument("--free-fails", action="store_true", help="let Free fail")
    parser.add_argument("--load-takes", type=float, default=0.0, metavar="S", help="compute for S seconds in LoadModel")
    parser.add_argument("--load-hangs", action="store_true", help="let LoadModel wait until told to stop")
    parser.add_argument("--load-fails", action="store_true", help="let LoadModel fail")
    parser.add_argument("--flood", type=int, default=0, metavar="BYTES", help="write so much to stderr each second")
    parser.add_argument("--fork", default="", metavar="KINDS", help="leave children: plain, group, setsid; by commas")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--http", type=int, metavar="STATUS", help="serve HTTP/1 that answers so, instead of gRPC")
    instead.add_argument("--garbage", action="store_true", help="answer every connection with garbage")
    instead.add_argument("--mute", action="store_true", help="listen, and never answer")
    instead.add_argument("--never-listens", action="store_true", help="do not listen")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Behave as *arguments* say (those of the process, if None), and return the exit code."""
    options = _parser().parse_args(arguments)
    began = time.monotonic()
    if options.ignore_sigterm:
        # A blocked signal is never heard, whatever handler is set later.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    if options.fork:
        print("children", *(_fork(kind) for kind in options.fork.split(",")), flush=True)
    if options.die_after is not None:
        _in_background(lambda: _die(began + options.die_after, options.code))
    if options.flood:
        _in_background(lambda: _flood(options.flood))
    time.sleep(options.delay)
    if options.never_listens or options.mute or options.garbage or options.http is not None:
        _serve_no_grpc(options)
    else:
        # `run` reads its address from the command line.
        sys.argv[1:] = ["--addr", options.addr]
        run(Scripted(options))
    time.sleep(options.slow_stop)
    return int(options.code)


def _fork(kind: str) -> int:
    match kind:
        case "plain":
            return subprocess.Popen(_PAUSE).pid
        case "group":
            return subprocess.Popen(_PAUSE, process_group=0).pid
        case "setsid":
            return subprocess.Popen(_PAUSE, start_new_session=True).pid
    raise SystemExit(f"--fork: there is no kind {kind!r}; known are plain, group, setsid")


def _in_background(function: object) -> None:
    threading.Thread(target=function, daemon=True).start()  # type: ignore[arg-type]  # a function without arguments


def _die(instant: float, code: int) -> None:
    time.sleep(max(0.0, instant - time.monotonic()))
    os._exit(code)


def _flood(bytes_per_second: int) -> None:
    began, written = time.monotonic(), 0
    while True:
        due = int((time.monotonic() - began) * bytes_per_second) - written
        while due > 0:
            written += os.write(2, b"flood flood flood flood\n" * (min(due, 65536) // 24 + 1))
            due = int((time.monotonic() - began) * bytes_per_second) - written
        time.sleep(_FLOOD_STEP)


def _serve_no_grpc(options: argparse.Namespace) -> None:
    """Until SIGTERM or SIGINT, in place of gRPC: HTTP/1, garbage, silence, or nothing at all."""
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    if not options.never_listens:
        host, port = split_address(options.addr)
        listener = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=64
        )
        print(f"serving on {options.addr} at {time.monotonic()}", flush=True)
        if not options.mute:
            _in_background(lambda: _answer_all(listener, options))
    told.wait()


def _answer_all(listener: socket.socket, options: argparse.Namespace) -> None:
    while True:
        connection, _ = listener.accept()
        _in_background(lambda connection=connection: _answer(connection, options))


def _answer(connection: socket.socket, options: argparse.Namespace) -> None:
    with connection:
        try:
            if options.http is None:
                connection.sendall(_GARBAGE)
            else:
                body = options.health.encode()
                head = f"HTTP/1.1 {options.http} Scripted\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                connection.recv(65536)
                connection.sendall(head.encode() + body)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass  # closing before the peer has, with data unread, would reset what was just sent
        except OSError:
            return  # the peer has gone


if __name__ == "__main__":
    sys.exit(main())
