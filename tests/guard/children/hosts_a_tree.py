"""A supervisor with one tree, which it never stops: `hosts_a_tree.py [--fork] <supervisor id> <command...>`.

With --fork, an idle fork of it keeps open whatever it had open.
"""

import os
import signal
import subprocess
import sys

import trio

from trio_sup.engine._guard import Guard
from trio_sup.engine._tree import Tree, marked, marker_entry


def lost(pid: int, replacement: int | None) -> None:
    print("lost", pid, replacement, flush=True)


async def main(supervisor_id: str, *command: str, fork: bool) -> None:
    guard = Guard(supervisor_id, None, lost)
    async with trio.open_nursery() as nursery:
        await nursery.start(guard.run)
        print("guard", guard.pid, flush=True)
        leader = subprocess.Popen(command, env=marked(os.environ, supervisor_id, 1), start_new_session=True)
        guard.register(leader.pid, Tree(leader.pid, marker_entry(supervisor_id, 1)).started)
        if fork:
            pid = os.fork()
            if pid == 0:
                os.dup2(os.open(os.devnull, os.O_RDWR), 1)  # the test waits for the end of all who hold the old one
                signal.pause()
            print("fork", pid, flush=True)
        print("leader", leader.pid, flush=True)
        await trio.sleep_forever()


forks = sys.argv[1] == "--fork"
arguments = sys.argv[2:] if forks else sys.argv[1:]


async def run() -> None:
    await main(*arguments, fork=forks)


trio.run(run)
