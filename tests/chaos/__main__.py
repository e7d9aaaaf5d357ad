"""A soak: chaos on real processes for as long as you like, with what is left counted after each round.

``python -m tests.chaos --minutes 60 [--seed N]`` prints a line for each round; it exits with 1 at the first thing
that is left, and names the seed of that round.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import trio

from tests.chaos.test_real_chaos import play
from trio_sup.testing import _traces

OPERATIONS = 300


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long to go on (default: 60)")
    parser.add_argument("--seed", type=int, default=None, help="seed of the first round; the next ones count on")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(2**31) if options.seed is None else options.seed
    ends_at = time.monotonic() + 60 * options.minutes
    rounds = played = 0
    with tempfile.TemporaryDirectory(prefix="trio-sup-soak-") as folder:
        os.environ["XDG_RUNTIME_DIR"] = folder
        with _traces.marked():
            while time.monotonic() < ends_at:
                before = _traces.Traces.now(Path(folder))
                played += sum(trio.run(play, random.Random(seed + rounds), OPERATIONS).values())
                left = _traces.Traces.now(Path(folder)).beyond(before)
                rounds += 1
                print(f"round {rounds} seed {seed + rounds - 1}: {played} operations, {_resident():.0f} MB", flush=True)
                if rounds > 1 and left:  # the first one may load modules that keep something open
                    print("left:", "; ".join(left))
                    return 1
    return 0


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    sys.exit(main())
