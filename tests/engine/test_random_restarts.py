"""Random schedules on backends that crash, fall ill, warm up and are restarted: no move that is not in the table, every
caller is answered, and nothing is left."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Sequence
from typing import Any

import attrs
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.schedules import actions, play, times
from trio_sup import BackendSpec, Choice, Liveness, Readiness
from trio_sup.strategies import AttemptEnd, RestartAfter, WarmUpTarget
from trio_sup.testing import FakeBackend


@attrs.frozen
class AtOnce:
    """Restarts whatever happens, without a wait."""

    def decide(self, ends: Sequence[AttemptEnd], rng: random.Random) -> RestartAfter:
        return RestartAfter(0)


@attrs.frozen
class Warm:
    """Takes its time; every third process is beyond help."""

    seconds: float

    def budget(self, spec: BackendSpec) -> float:
        return 5

    async def warm_up(self, target: WarmUpTarget) -> None:
        await trio.sleep(self.seconds)
        if target.pid % 3 == 0:
            raise RuntimeError("beyond help")


POLICIES = [
    "never",
    Choice("on-failure", delay=1, max_delay=4, jitter=0, max_start_failures=3, limit=4, period=100),
    Choice("always", delay=10, max_delay=10, factor=1, max_start_failures=1, limit=0),
    AtOnce(),
]
SPECS = [
    BackendSpec(
        name="store",
        command=[sys.executable],
        grace=grace,
        restart_policy=policy,
        readiness=Readiness(timeout=8, period=2, failure_threshold=2, progress=["output"]),
        liveness=Liveness(period=3, failure_threshold=2, busy_timeout=10),
        warm_up=warm_up,
    )
    for policy in POLICIES
    for grace, warm_up in ((1, []), (2, [Warm(0), Warm(3)]))
]
spans = st.lists(st.tuples(times, st.sampled_from([5.0, 20.0, math.inf])), max_size=2)
behaviours = st.builds(
    FakeBackend,
    listens_after=times,
    healthy_after=times,
    unhealthy_during=spans,
    hangs_during=spans,
    exits_after=st.sampled_from([0.0, 0.05, 3.0, 25.0, 1e9]),
    exit_code=st.sampled_from([0, 1]),
    stops_after=times,
    free_takes=times,
    works_from=st.sampled_from([0.0, 10.0, math.inf]),
    works_until=st.just(60.0),
    work=st.sampled_from([["cpu"], ["output"]]),
    stderr=st.sampled_from([b"", b"Address already in use"]),
)
steps = actions(specs=len(SPECS), replicas=2, patience=[0.0, 0.5, 30.0, math.inf])


@settings(max_examples=150, deadline=None)
@given(st.lists(behaviours, min_size=1, max_size=6), st.lists(steps, max_size=20))
def test_every_caller_is_answered_and_nothing_is_left(processes: list[FakeBackend], schedule: list[Any]) -> None:
    # One that is restarted for ever, and never ready, keeps its caller waiting until it is stopped.
    play(processes, SPECS, schedule, stopped_after=100)
