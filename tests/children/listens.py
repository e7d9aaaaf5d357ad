"""No vice: listens, ends at SIGTERM. `--code N` ends with that code at SIGTERM."""

import signal
import sys

from _listening import listen, serve_for_ever

code = int(sys.argv[sys.argv.index("--code") + 1]) if "--code" in sys.argv else 0
signal.signal(signal.SIGTERM, lambda *_: sys.exit(code))
serve_for_ever(listen())
