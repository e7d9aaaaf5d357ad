"""A server with a worker: says whether the worker got the polite signal before the server ended it itself."""

import os
import signal
import sys

from _listening import listen, serve_for_ever

server = listen()
worker = os.fork()
if worker == 0:
    signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b"worker got SIGTERM\n"), os._exit(0)))
    while True:
        signal.pause()


def stop(*_: object) -> None:
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)
    sys.exit(0)


signal.signal(signal.SIGTERM, stop)
print("worker", worker, flush=True)
serve_for_ever(server)
