"""Loads for a while before it listens, and shows it in one way: ``--for SECONDS --by output|reads|memory|nothing``."""

import sys
import time
from pathlib import Path

from _listening import listen, serve_for_ever

MIB = 2**20


def option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


kept = []
sign = option("--by")
weights = Path(option("--file")) if sign == "reads" else None
until = time.monotonic() + float(option("--for"))
while time.monotonic() < until:
    time.sleep(0.1)
    if sign == "output":
        print("loading", flush=True)
    elif weights is not None:
        weights.read_bytes()
    elif sign == "memory":
        kept.append(b"x" * (2 * MIB))
serve_for_ever(listen())
