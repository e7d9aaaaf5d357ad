"""A supervisor without a guard, as after both were killed: has a tree on record and a later one, and waits.

Arguments: the directory of the records, and the command of the tree's leader, which says "ready". `--fork` first
leaves a child that holds every descriptor. Prints "supervisor", "leader" and "later" with a pid or an id.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

from trio_sup.engine._tree import marked
from trio_sup.engine._tree_ledger import TreeLedger, now
from trio_sup.guard._proc import read_process

arguments = sys.argv[1:]
fork = "--fork" in arguments
if fork:
    arguments.remove("--fork")
directory, *command = arguments
ledger = TreeLedger()
ledger.open(Path(directory))
print("supervisor", ledger.supervisor_id, flush=True)


def launch(number: int, command: list[str], stdout: int | None = None) -> "subprocess.Popen[bytes]":
    environment = marked(os.environ, ledger.supervisor_id, number)
    process = subprocess.Popen(command, env=environment, start_new_session=True, stdout=stdout)
    found = read_process(process.pid)
    assert found is not None
    ledger.add(found.pid, found.started)
    return process


leader = launch(1, command, stdout=subprocess.PIPE)
assert leader.stdout is not None
print("leader", leader.pid, flush=True)
# Whatever it says before "ready" is passed on.
while (line := leader.stdout.readline()) != b"ready\n":
    sys.stdout.buffer.write(line)
    sys.stdout.flush()
# What has begun by now is told from what begins in a later tick of the clock.
tick = now()
while now() <= tick:
    pass
later = launch(2, ["sleep", "1000"])
print("later", later.pid, flush=True)
if fork and os.fork() == 0:
    print("fork", os.getpid(), flush=True)
    signal.pause()
signal.pause()
