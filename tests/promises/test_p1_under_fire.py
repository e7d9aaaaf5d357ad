"""P1 under fire: SIGKILL of the supervisor at its worst moments, and after 2 s nothing is left.

Both guards, while backends start, run and stop, with grandchildren and every kind of escapee. `FIRE_SEED` and
`FIRE_TRIALS` in the environment set what is otherwise random, and how many trials the long test makes.
"""

from __future__ import annotations

import json
import os
import secrets
import statistics
import subprocess
import sys
from collections import Counter

import pytest
import trio

from tests.conftest import ROOT

from .fire.trial import GUARDS, MOMENTS, Outcome

pytestmark = pytest.mark.usefixtures("nothing_survives")

WORKERS = 2


async def make_trials(seed: str, first: int, count: int) -> list[Outcome]:
    """Make so many trials, from that number on."""
    outcomes: list[Outcome] = []

    async def work(begin: int, end: int) -> None:
        command = [sys.executable, "-m", "tests.promises.fire", "--seed", seed, "--trials", f"{begin}:{end}"]
        done = await trio.run_process(command, cwd=ROOT, capture_stdout=True, stdin=subprocess.DEVNULL)
        outcomes.extend(Outcome(**json.loads(line)) for line in done.stdout.splitlines())

    async with trio.open_nursery() as nursery:
        for worker in range(WORKERS):
            begin, end = (first + count * part // WORKERS for part in (worker, worker + 1))
            nursery.start_soon(work, begin, end)
    return outcomes


def table(seed: str, outcomes: list[Outcome]) -> str:
    counts = Counter((outcome.moment, outcome.guard, outcome.exact) for outcome in outcomes)
    lines = [f"{len(outcomes)} trials, FIRE_SEED={seed}; how many were killed at the moment that was aimed at:"]
    for moment in MOMENTS:
        each = ", ".join(
            f"{guard} {counts[moment, guard, True]} of {counts[moment, guard, True] + counts[moment, guard, False]}"
            for guard in GUARDS
        )
        lines.append(f"  {moment}: {each}")
    seconds = sorted(outcome.seconds for outcome in outcomes)
    lines.append(
        f"  gone after {statistics.median(seconds) * 1000:.0f} ms (median), {seconds[-1] * 1000:.0f} ms (most)"
    )
    return "\n".join(lines)


def exact(outcomes: list[Outcome], moment: str) -> int:
    return sum(outcome.moment == moment and outcome.exact for outcome in outcomes)


def check(seed: str, outcomes: list[Outcome]) -> None:
    failed = [outcome for outcome in outcomes if outcome.left]
    again = [
        f"python -m tests.promises.fire --seed {seed} --trials {each.number}:{each.number + 1}  # {each.left}"
        for each in failed
    ]
    assert failed == [], "\n".join(["to make them again:", *again])


async def test_ten_supervisors_are_killed_and_nothing_is_left() -> None:
    seed = os.environ.get("FIRE_SEED", secrets.token_hex(4))
    with trio.fail_after(120):
        outcomes = await make_trials(seed, 0, 10)
    print(table(seed, outcomes))
    check(seed, outcomes)
    assert len(outcomes) == 10


@pytest.mark.slow
async def test_hundreds_of_supervisors_are_killed_and_nothing_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    seed = os.environ.get("FIRE_SEED", secrets.token_hex(4))
    count = int(os.environ.get("FIRE_TRIALS", "240"))
    with trio.fail_after(900):
        outcomes = await make_trials(seed, 0, count)
        while count >= 200 and exact(outcomes, "spawn") < 50 and len(outcomes) < 2 * count:
            outcomes += await make_trials(seed, len(outcomes), 20)  # a busy machine misses many
    with capsys.disabled():
        print(f"\n{table(seed, outcomes)}")
    check(seed, outcomes)
    if count >= 200:
        assert len(outcomes) >= 200
        assert exact(outcomes, "spawn") >= 50
        assert exact(outcomes, "stop") >= 50
        for guard in GUARDS:
            mine = [outcome for outcome in outcomes if outcome.guard == guard]
            assert len(mine) >= 90
            assert exact(mine, "guard") >= 10
