"""Binds with SO_REUSEPORT, so that another process can listen beside it; `--after FIFO` waits for the FIFO's writer."""

import sys
from pathlib import Path

from _listening import listen, serve_for_ever

if "--after" in sys.argv:
    Path(sys.argv[sys.argv.index("--after") + 1]).read_bytes()
serve_for_ever(listen(reuse_port=True))
