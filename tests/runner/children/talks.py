"""Says something on both streams, leaves a line unfinished, and listens.

`--flood`: then writes for ever. `--die`: then ends.
"""

import os
import socket
import sys

host, _, port = sys.argv[sys.argv.index("--addr") + 1].rpartition(":")
server = socket.create_server((host, int(port)))
os.write(1, b"hello\n\xff\n")
os.write(2, b"oops\n")
os.write(1, b"unfinished")
if "--die" in sys.argv:
    sys.exit(1)
while "--flood" in sys.argv:
    os.write(1, b"x" * 99 + b"\n")
while True:
    server.accept()[0].close()
