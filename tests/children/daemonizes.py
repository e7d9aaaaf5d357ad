"""Goes into the background: the process that was started ends at once, its grandchild listens."""

import os

from _listening import listen, serve_for_ever

if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
serve_for_ever(listen())
