"""``python -m tests.promises.fire --seed SEED --trials FROM:TO``: make these trials; one line of JSON for each.

A process of its own for each row of trials: whoever wants to kill within a millisecond must not share a thread's turn.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random

import attrs

from .trial import GUARDS, run

ROUND = ("spawn", "stop", "ready", "spawn", "stop", "spawn", "stop", "spawn", "guard", "spawn")
"""The moments of ten trials; whoever comes next takes the other guard."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", required=True)
    parser.add_argument("--trials", required=True, help="FROM:TO, numbers of trials")
    options = parser.parse_args()
    first, end = map(int, options.trials.split(":"))
    with contextlib.suppress(PermissionError):
        # Whoever aims at a millisecond must not wait for his turn; those that he starts must.
        os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))
        os.nice(-15)
    for number in range(first, end):
        # Each trial depends on seed and number alone, so that any one can be made again.
        rng = random.Random(f"{options.seed}/{number}")
        guard = GUARDS[(number + number // len(ROUND)) % 2]
        outcome = run(number, ROUND[number % len(ROUND)], guard, rng)
        print(json.dumps(attrs.asdict(outcome)), flush=True)


if __name__ == "__main__":
    main()
