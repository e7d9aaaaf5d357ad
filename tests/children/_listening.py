"""What the children share: where to listen, and saying so."""

import socket
import sys
import time


def address() -> tuple[str, int]:
    host, _, port = sys.argv[sys.argv.index("--addr") + 1].rpartition(":")
    return host.strip("[]"), int(port)


def listen(*, reuse_port: bool = False, reuse_address: bool = True) -> socket.socket:
    host, port = address()
    server = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    if reuse_address:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse_port:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    server.bind((host, port))
    server.listen(64)
    print("serving", time.monotonic(), flush=True)
    return server


def serve_for_ever(server: socket.socket) -> None:
    while True:
        connection, _ = server.accept()
        connection.close()
