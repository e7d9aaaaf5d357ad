"""Measure the numbers that trio-sup promises to reach: ``python -m tests.benchmarks``."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

from ._effort import Effort
from ._figures import Figure, table

NAMES = (
    "ready_lag",
    "exit_events",
    "mass_start",
    "mass_stop",
    "idle_cost",
    "flood",
    "version",
    "warm_call",
    "install_image",
)


def machine() -> dict[str, Any]:
    """Facts that the numbers depend on; nothing that names the machine."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which, of: {', '.join(NAMES)}; all by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--quick", dest="effort", action="store_const", const=Effort.QUICK, default=Effort.NORMAL,
                        help="few and small: proves that they run, measures little")  # fmt: skip
    parser.add_argument("--full", dest="effort", action="store_const", const=Effort.FULL,
                        help="more of everything, and servers that need 20 s")  # fmt: skip
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; there are: {', '.join(NAMES)}")
    facts, began = machine(), time.monotonic()
    figures: list[Figure] = []
    for name in options.names or NAMES:
        print(f"{name} …", end=" ", file=sys.stderr, flush=True)
        since = time.monotonic()
        figures += importlib.import_module(f".{name}", __package__).figures(options.effort)
        print(f"{time.monotonic() - since:.0f} s", file=sys.stderr)
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    print(table(figures))
    print(f"{sum(figure.verdict() == 'MISSED' for figure in figures)} missed, in {time.monotonic() - began:.0f} s")
    if options.json:
        document = {
            "machine": facts,
            "effort": options.effort.value,
            "figures": [figure.to_json() for figure in figures],
        }
        options.json.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
