"""Starts a command, ends its tree, and says what survived and how long that took."""

import os
import subprocess
import sys

import trio

from trio_sup.engine._tree import SharedScan, Tree, end_tree, marked, marker_entry


async def main() -> None:
    supervisor_id = f"ends-{os.getpid()}"
    environment = marked(os.environ, supervisor_id, 1)
    leader = subprocess.Popen(sys.argv[1:], env=environment, stdout=subprocess.PIPE, start_new_session=True)
    tree = Tree(leader.pid, marker_entry(supervisor_id, 1))
    assert leader.stdout is not None
    while (line := leader.stdout.readline()) != b"ready\n":
        print(line.decode(), end="", flush=True)
    began = trio.current_time()
    survivors = await end_tree(tree, SharedScan(), timeout=0.5)
    print(f"took {trio.current_time() - began}")
    for survivor in survivors:
        print(f"survivor {survivor.pid} {survivor.why}")


trio.run(main)
