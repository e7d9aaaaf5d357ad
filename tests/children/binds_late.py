"""Takes `--delay` seconds before it listens."""

import sys
import time

from _listening import listen, serve_for_ever

time.sleep(float(sys.argv[sys.argv.index("--delay") + 1]))
serve_for_ever(listen())
