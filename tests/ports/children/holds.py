"""Holds PORT until its stdin ends, if it can."""

import sys

from trio_sup.engine._port_hold import hold_port

placeholder = hold_port(int(sys.argv[1]))
print("taken" if placeholder is None else "held", flush=True)
sys.stdin.read()
