"""Listens, with descendants of every kind: plain, in a group of their own, in a session of their own, double-forked.

Prints "children" and their pids. `--clear` gives those that keep their parent an empty environment.
"""

import os
import signal
import subprocess
import sys

from _listening import listen, serve_for_ever

environment = {} if "--clear" in sys.argv else None
sleep = [sys.executable, "-c", "import signal; signal.pause()"]
pids = [
    subprocess.Popen(sleep, env=environment).pid,
    subprocess.Popen(sleep, env=environment, process_group=0).pid,
    subprocess.Popen(sleep, env=environment, start_new_session=True).pid,
]
read_end, write_end = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    os.write(write_end, str(os.getpid()).encode())
    signal.pause()
os.wait()
pids.append(int(os.read(read_end, 20)))
print("children", *pids, flush=True)
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
serve_for_ever(listen())
