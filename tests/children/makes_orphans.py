"""Listens, having left behind processes that ended after their parent had: somebody else must collect them.

Prints "orphans" and how many there were. Ends with `--code N` at SIGTERM.
"""

import os
import signal
import sys

from _listening import listen, serve_for_ever

COUNT = 20
for _ in range(COUNT):
    ended, ends = os.pipe()
    child = os.fork()
    if child == 0:
        if os.fork() == 0:
            os.close(ends)
            os.read(ended, 1)  # end of file: the parent has ended
        os._exit(0)
    os.waitpid(child, 0)
    os.close(ended)
    os.close(ends)
print("orphans", COUNT, flush=True)
code = int(sys.argv[sys.argv.index("--code") + 1]) if "--code" in sys.argv else 0
signal.signal(signal.SIGTERM, lambda *_: os._exit(code))
serve_for_ever(listen())
