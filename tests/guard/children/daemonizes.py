"""Forks twice, as daemons do: `daemonizes.py keeps|clears|overwrites|hides|changes|threads [ends]`.

The daemon has a session of its own and no parent, and does that to its marker, or to its user; with "ends", the leader
ends too. It says "daemon <pid>" when all that is done. One that changes its user has a child that did not. One that
"threads" goes on in another thread than its main one.
"""

import ctypes
import os
import platform
import signal
import sys
import threading
from pathlib import Path

PR_SET_DUMPABLE = 4
SYS_EXIT = {"x86_64": 60, "aarch64": 93}[platform.machine()]


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
        case "threads":
            threading.Thread(target=go_on, args=[done]).start()
            libc.syscall(SYS_EXIT, 0)  # ends this thread alone
    os.close(done)
    signal.pause()


main = Path("/proc/self/stat")


def go_on(done: int) -> None:
    while not main.read_text().rpartition(")")[2].startswith(" Z"):
        pass
    os.close(done)
    signal.sigwait({signal.SIGUSR1})


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
