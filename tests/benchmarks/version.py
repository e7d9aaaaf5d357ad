"""How soon the command answers."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ._effort import Effort
from ._figures import Figure, median

GOAL = 3.0


def figures(effort: Effort) -> Iterator[Figure]:
    command = [str(Path(sys.executable).with_name("trio-sup")), "--version"]
    bare = [sys.executable, "-c", "pass"]
    turns = [(_took(command), _took(bare)) for _ in range(effort.repeats(30))]
    took, took_bare = (median(samples) for samples in zip(*turns, strict=True))
    yield Figure(
        name="trio-sup --version, against python -c pass",
        measured=took / took_bare,
        goal=GOAL,
        unit="x",
        note=f"{took * 1e3:.1f} ms against {took_bare * 1e3:.1f} ms; medians of {len(turns)}",
    )


def _took(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, timeout=30)
    return time.perf_counter() - began
