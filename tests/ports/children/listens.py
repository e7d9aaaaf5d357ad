"""Listens at HOST PORT with the options named after it, says so, and lives until its stdin ends.

Options: reuseaddr, reuseport, v6only, undumpable, accept (takes one connection and closes the listener).
"""

import ctypes
import socket
import sys

host, port, *options = sys.argv[1:]
if "undumpable" in options:
    ctypes.CDLL(None).prctl(4, 0)
listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
if ":" in host:
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, "v6only" in options)
if "reuseaddr" in options:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
if "reuseport" in options:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
try:
    listener.bind((host, int(port)))
    listener.listen()
except OSError as error:
    print(error.strerror, flush=True)
    sys.exit(1)
print("listening", flush=True)
if "accept" in options:
    connection, _ = listener.accept()
    listener.close()
    connection.sendall(b"accepted")
sys.stdin.read()
