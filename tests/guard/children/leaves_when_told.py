"""Forks a child, and ends when told on its input; the child leaves session and environment at SIGUSR1."""

import os
import signal
import sys

child = os.fork()
if child == 0:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    print("child", os.getpid(), flush=True)
    signal.sigwait({signal.SIGUSR1})
    os.setsid()
    os.execve("/bin/sh", ["sh", "-c", "echo left; exec sleep 1000"], {})
sys.stdin.readline()
