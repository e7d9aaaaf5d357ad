"""Another process that holds a lock: ``python -m trio_sup.testing._lock_holder exclusive|shared BACKEND``.

Reads the lock, pickled, as a line of hexadecimal digits; prints ``held``; lets go at the end of its input.
"""

from __future__ import annotations

import pickle
import sys

import trio

from ..strategies import InstallLock


async def _hold(lock: InstallLock, backend: str, shared: bool) -> None:
    async with lock.hold(backend, shared=shared):
        sys.stdout.write("held\n")
        sys.stdout.flush()
        await trio.to_thread.run_sync(sys.stdin.read)


if __name__ == "__main__":
    # From the parent only, through a pipe that nobody else has.
    trio.run(_hold, pickle.loads(bytes.fromhex(sys.stdin.readline())), sys.argv[2], sys.argv[1] == "shared")
