"""Listens; says which signal it got, and ends at those named after ``--ends-at``, such as ``HUP TERM``."""

import os
import signal
import socket
import sys
from types import FrameType

ends_at = {signal.Signals[f"SIG{name}"] for name in sys.argv[sys.argv.index("--ends-at") + 1 :]}


def told(number: int, frame: FrameType | None) -> None:
    os.write(1, f"got {signal.Signals(number).name}\n".encode())
    if number in ends_at:
        os._exit(0)


for polite in (signal.SIGHUP, signal.SIGTERM):
    signal.signal(polite, told)
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
    while True:
        server.accept()[0].close()
