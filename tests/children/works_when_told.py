"""Does one piece of work after the other, as it is told over a unix socket: ``works_when_told.py SOCKET``.

compute SECONDS · spin (in a child, for ever) · read PATH · map PATH · grow MEBIBYTES · child COMMAND… (a child in a
session of its own does it, and stays) · brief COMMAND… (such a child does it, and ends). Answers each with ``done``.
"""

import mmap
import os
import socket
import sys
import time

kept = []


def work(command, *arguments):
    if command == "compute":
        until = time.process_time() + float(arguments[0])
        while time.process_time() < until:
            pass
    elif command == "spin":
        if not os.fork():
            while True:
                pass
    elif command == "read":
        with open(arguments[0], "rb", buffering=0) as file:
            while file.read(2**20):
                pass
    elif command == "map":
        with open(arguments[0], "rb") as file:
            kept.append(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        for at in range(0, len(kept[-1]), mmap.PAGESIZE):
            kept[-1][at]
    elif command == "grow":
        kept.append(b"x" * (int(arguments[0]) * 2**20))
    elif command in ("child", "brief"):
        done, says_done = os.pipe()
        pid = os.fork()
        if not pid:
            os.setsid()
            work(*arguments)
            os.write(says_done, b".")
            if command == "brief":
                os._exit(0)
            time.sleep(1000)
        os.read(done, 1)
        if command == "brief":
            os.waitpid(pid, 0)


with socket.socket(socket.AF_UNIX) as told:
    told.connect(sys.argv[1])
    told.sendall(b"ready\n")
    for line in told.makefile():
        work(*line.split())
        told.sendall(b"done\n")
