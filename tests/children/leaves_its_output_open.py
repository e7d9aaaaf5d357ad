"""Listens; before, leaves a process behind that nobody can tell to be its own and that keeps its output open.

That one has a session and a parent of its own and no environment. Prints "escaped" and its pid.
"""

import os

from _listening import listen, serve_for_ever

read_end, write_end = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    os.write(write_end, str(os.getpid()).encode())
    os.execve("/bin/sh", ["sh", "-c", "exec sleep 300"], {})
os.wait()
print("escaped", os.read(read_end, 20).decode(), flush=True)
serve_for_ever(listen())
