"""Forks a child that leaves the group, and one that leaves the session and with it the group."""

import os
import signal

told, tells = os.pipe()
for leaves_session in (False, True):
    if os.fork() == 0:
        if leaves_session:
            os.setsid()
        else:
            os.setpgid(0, 0)
        os.write(tells, b".")
        signal.pause()
    os.read(told, 1)
print("ready", flush=True)
signal.pause()
