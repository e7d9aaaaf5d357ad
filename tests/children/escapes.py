"""Listens, with descendants of the kinds that are named after `--with`, separated by commas.

Each process holds what `--held-by` names open for writing: a FIFO, so that a test can tell when the last one has ended.
`--ignores`: polite signals do nothing. `--never`: it does not listen. The kinds that shed every name of theirs are for
tests of the runner alone; an embedded supervisor cannot find them.
"""

import ctypes
import os
import platform
import signal
import sys
import threading
import time

from _listening import listen, serve_for_ever

PR_SET_DUMPABLE = 4
SYS_EXIT = {"x86_64": 60, "aarch64": 93}[platform.machine()]


def value(option: str, default: str = "") -> str:
    return sys.argv[sys.argv.index(option) + 1] if option in sys.argv else default


def settled() -> None:
    os.write(tells, b".")
    os.close(tells)


def pause() -> None:
    settled()
    while True:
        signal.pause()


def plain() -> None:
    pause()


def grandchild() -> None:
    if os.fork():
        signal.pause()
    pause()


def own_group() -> None:
    os.setpgid(0, 0)
    pause()


def own_session() -> None:
    os.setsid()
    pause()


def block_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP})


def ignoring() -> None:
    block_signals()
    pause()


def stopped() -> None:
    settled()
    while True:
        os.kill(os.getpid(), signal.SIGSTOP)


def forking() -> None:
    """Forks on, one a millisecond, each with a session of its own; what is there in the end stays."""
    settled()
    for _ in range(60):
        if os.fork() == 0:
            os.setsid()
            while True:
                signal.pause()
        time.sleep(0.001)
    signal.pause()


def shedding() -> None:
    """Forks on, one a millisecond, and these shed all that they can while it lives; no polite signal ends it."""
    block_signals()
    settled()
    for _ in range(300):
        if os.fork() == 0:
            os.setsid()
            os.execve("/bin/sleep", ["sleep", "1000"], {})
        time.sleep(0.001)
    signal.pause()


def cleared() -> None:
    """No marker, no session, no group; but its parent stays."""
    os.setsid()
    settled()
    os.execve("/bin/sleep", ["sleep", "1000"], {})


def cleared_grandchild() -> None:
    """As above, but its parent is one that heeds a polite signal."""
    if os.fork():
        os.close(tells)
        signal.pause()
    cleared()


def daemonize() -> None:
    os.setsid()
    if os.fork():
        os._exit(0)


def daemon() -> None:
    daemonize()
    pause()


def threaded_daemon() -> None:
    daemonize()
    threading.Thread(target=pause).start()
    ctypes.CDLL(None).syscall(SYS_EXIT, 0)  # ends this thread alone


def cleared_daemon() -> None:
    daemonize()
    settled()
    os.execve("/bin/sleep", ["sleep", "1000"], {})


def overwritten_daemon() -> None:
    daemonize()
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_void_p
    ctypes.memset(libc.getenv(b"TRIO_SUP_TREE"), ord("x"), len(os.environ["TRIO_SUP_TREE"]))
    pause()


def hidden_daemon() -> None:
    daemonize()
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    pause()


if held := value("--held-by"):
    os.set_inheritable(os.open(held, os.O_WRONLY), True)
kinds = [kind for kind in value("--with").split(",") if kind]
told, tells = os.pipe()
for kind in kinds:
    if os.fork() == 0:
        os.close(told)
        globals()[kind]()
os.close(tells)
missing = len(kinds)
while missing and (said := os.read(told, 100)):
    missing -= len(said)
if "--ignores" in sys.argv:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
if "--never" in sys.argv:
    while True:
        signal.pause()
# The end of the supervisor is not to end it by a broken pipe, before a guard does.
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
serve_for_ever(listen())
