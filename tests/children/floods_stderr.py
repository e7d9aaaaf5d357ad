"""Listens, then writes to stderr at full speed."""

import os

from _listening import listen

server = listen()
block = b"x" * 99 + b"\n"
while True:
    os.write(2, block * 600)
