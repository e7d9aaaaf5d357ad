"""Forks twice, as daemons do: `daemonizes.py keeps|clears|overwrites|hides|changes [ends]`.

The daemon has a session of its own and no parent, and does that to its marker, or to its user; with "ends", the leader
ends too. It says "daemon <pid>" when all that is done. One that changes its user has a child that did not.
"""

import ctypes
import os
import signal
import sys

PR_SET_DUMPABLE = 4


def become_a_daemon(done: int) -> None:
    os.setsid()
    libc = ctypes.CDLL(None)
    match sys.argv[1]:
        case "clears":
            os.execve("/bin/sleep", ["sleep", "1000"], {})  # `done` closes by itself
        case "overwrites":
            libc.getenv.restype = ctypes.c_void_p
            ctypes.memset(libc.getenv(b"TRIO_SUP_TREE"), ord("x"), len(os.environ["TRIO_SUP_TREE"]))
        case "hides":
            libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
        case "changes":
            if os.fork() == 0:
                os.close(done)
                signal.pause()  # as the old user
            os.setuid(65534)
    os.close(done)
    signal.pause()


told, tells = os.pipe()
middle = os.fork()
if middle == 0:
    daemon = os.fork()
    if daemon == 0:
        become_a_daemon(tells)
    os.write(tells, b"%d" % daemon)
    os._exit(0)
os.close(tells)
os.waitpid(middle, 0)
pid = b""
while part := os.read(told, 100):
    pid += part
print("daemon", pid.decode(), flush=True)
print("ready", flush=True)
if sys.argv[2:] != ["ends"]:
    signal.pause()
