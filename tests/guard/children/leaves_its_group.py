"""Forks a child that leaves the group, and one that leaves the session and then has a group of its own as well."""

import os
import signal

told, tells = os.pipe()
for leave in (lambda: os.setpgid(0, 0), os.setsid):
    if os.fork() == 0:
        leave()
        os.write(tells, b".")
        signal.pause()
    os.read(told, 1)
print("ready", flush=True)
signal.pause()
