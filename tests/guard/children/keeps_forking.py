"""Forks children that begin sessions of their own, one every millisecond; none of them ends by itself."""

import os
import signal
import time

for count in range(400):
    if os.fork() == 0:
        os.setsid()
        signal.pause()
    if count == 20:
        print("ready", flush=True)
    time.sleep(0.001)
signal.pause()
