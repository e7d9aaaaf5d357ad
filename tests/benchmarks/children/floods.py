"""Listens, and writes lines of 100 bytes to stdout at full speed until it is ended."""

import os
import socket
import sys

host, _, port = sys.argv[sys.argv.index("--addr") + 1].rpartition(":")
server = socket.create_server((host, int(port)))
block = (b"x" * 99 + b"\n") * 655
while True:
    os.write(1, block)
