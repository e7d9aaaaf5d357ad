"""Stops itself (SIGSTOP): before it listens, or with `--later` when the first one connects."""

import os
import signal
import sys

from _listening import listen

if "--later" not in sys.argv:
    os.kill(os.getpid(), signal.SIGSTOP)
server = listen()
server.accept()
os.kill(os.getpid(), signal.SIGSTOP)
server.accept()
