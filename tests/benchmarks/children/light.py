"""The lightest honest backend: answers every call with Health's OK, at little more than the cost of an interpreter.

Run it as ``python -I -S light.py``. It speaks just enough HTTP/2 to answer small calls, one frame after the other.
With --fill N it first writes N bytes to each output; with --linger S it ends S seconds after SIGTERM.
"""

from __future__ import annotations

import _socket  # importing `socket` takes as long as starting the interpreter
import sys
from select import POLLIN, poll

PREFACE_BYTES = 24
DATA, HEADERS, SETTINGS, PING = 0, 1, 4, 6
END_STREAM = ACK = 1
END_HEADERS = 4
# HPACK by hand: ":status: 200" is in the static table, the other two are literals.
REPLY_HEADERS = b"\x88\x0f\x10\x10application/grpc"
REPLY = b"\0\0\0\0\4\x0a\2OK"
TRAILERS = b"\0\x0bgrpc-status\x010"


def option(name: str, default: str) -> str:
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default


def frame(kind: int, flags: int, stream: bytes, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream + payload


def answers(buffer: bytearray) -> bytes:
    """Take whole frames out of *buffer*; what to send back."""
    sent = b""
    while len(buffer) >= 9 and len(buffer) >= (end := 9 + int.from_bytes(buffer[:3], "big")):
        kind, flags, stream, payload = buffer[3], buffer[4], bytes(buffer[5:9]), bytes(buffer[9:end])
        del buffer[:end]
        if kind in (SETTINGS, PING) and not flags & ACK:
            sent += frame(kind, ACK, stream, payload if kind == PING else b"")
        elif kind in (DATA, HEADERS) and flags & END_STREAM:
            sent += frame(HEADERS, END_HEADERS, stream, REPLY_HEADERS)
            sent += frame(DATA, 0, stream, REPLY)
            sent += frame(HEADERS, END_HEADERS | END_STREAM, stream, TRAILERS)
    return sent


def linger(seconds: float) -> None:
    import os
    import signal
    import time

    def end(*_: object) -> None:
        time.sleep(seconds)
        os._exit(0)  # the interpreter's own farewell, times 200, would be most of what is measured

    signal.signal(signal.SIGTERM, end)


def main() -> None:
    host, _, port = option("--addr", "").rpartition(":")
    if fill := int(option("--fill", "0")):
        for output in (sys.stdout, sys.stderr):
            output.write("x" * fill)
            output.flush()
    if seconds := float(option("--linger", "0")):
        linger(seconds)
    listener = _socket.socket()
    listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
    listener.bind((host, int(port)))
    listener.listen(64)
    poller = poll()
    poller.register(listener.fileno(), POLLIN)
    connections: dict[int, tuple[_socket.socket, bytearray, int]] = {}
    while True:
        for descriptor, _ in poller.poll():
            if descriptor == listener.fileno():
                accepted, _ = listener._accept()  # type: ignore[attr-defined]  # what `socket.socket.accept` is made of
                peer = _socket.socket(fileno=accepted)
                peer.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
                peer.send(frame(SETTINGS, 0, b"\0\0\0\0"))
                connections[accepted] = peer, bytearray(), PREFACE_BYTES
                poller.register(accepted, POLLIN)
                continue
            peer, buffer, preface = connections[descriptor]
            try:
                buffer += (data := peer.recv(65536))
                if len(buffer) >= preface:
                    del buffer[:preface]
                    connections[descriptor] = peer, buffer, 0
                    if sent := answers(buffer):
                        peer.send(sent)
            except OSError:
                data = b""
            if not data:
                poller.unregister(descriptor)
                del connections[descriptor]
                peer.close()


main()
