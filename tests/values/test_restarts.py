"""The arithmetic of restart policies."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_sup import InvalidValue
from trio_sup._restarts import (
    Backoff,
    Intensity,
    checked,
    failed_starts,
    fastest_pace,
    fastest_restarts,
    since_healthy,
)
from trio_sup.strategies import AttemptEnd, GiveUp, RestartAfter

DOUBLING = Backoff(delay=0.5, factor=2, max_delay=30, jitter=0.1)


def end(ended_at: float = 0.0, ready_for: float | None = None) -> AttemptEnd:
    return AttemptEnd(ended_at=ended_at, ready_for=ready_for, success=False)


# ---- waits


def test_waits_double_up_to_the_longest() -> None:
    assert [DOUBLING.mean(failures) for failures in range(1, 10)] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


@pytest.mark.parametrize("failures", [1000, 10**6, 10**400])
@pytest.mark.parametrize("factor", [1.0000001, 2, 1000])
def test_the_wait_does_not_overflow(failures: int, factor: float) -> None:
    backoff = Backoff(delay=1e-300, factor=factor, max_delay=1e300, jitter=0)
    assert 0 < backoff.mean(failures) <= 1e300


@given(
    st.floats(0, 1e9), st.floats(1, 1000), st.floats(0, 1e9), st.floats(0, 0.999), st.integers(1, 10**6), st.integers()
)
def test_a_wait_stays_within_its_jitter(
    delay: float, factor: float, more: float, jitter: float, failures: int, seed: int
) -> None:
    backoff = Backoff(delay=delay, factor=factor, max_delay=delay + more, jitter=jitter)
    mean = backoff.mean(failures)
    assert delay <= mean <= delay + more
    assert mean <= backoff.mean(failures + 1)
    assert (
        mean * (1 - jitter) * 0.999999 <= backoff.wait(failures, random.Random(seed)) <= mean * (1 + jitter) * 1.000001
    )


def test_jitter_shortens_and_lengthens_also_the_longest_wait() -> None:
    for failures, mean in ((1, 0.5), (100, 30.0)):
        waits = [DOUBLING.wait(failures, random.Random(seed)) for seed in range(200)]
        assert mean * 0.9 <= min(waits) < mean * 0.91
        assert mean * 1.09 < max(waits) <= mean * 1.1


def test_without_a_delay_there_is_no_wait() -> None:
    backoff = Backoff(delay=0, factor=2, max_delay=30, jitter=0.1)
    assert {backoff.wait(failures, random.Random(failures)) for failures in range(1, 100)} == {0.0}


# ---- limits


def test_more_restarts_than_the_limit_within_the_period_are_too_many() -> None:
    intensity = Intensity(limit=2, period=10)
    assert not intensity.is_exceeded([end(0), end(1)])
    assert intensity.is_exceeded([end(0), end(1), end(10)])
    assert not intensity.is_exceeded([end(0), end(1), end(10.1)])
    assert intensity.is_exceeded([end(-100), end(0), end(1), end(10)])
    assert not intensity.is_exceeded([end(0), end(1), end(2), end(50), end(60), end(61)][:5])


def test_limit_0_is_no_limit() -> None:
    assert not Intensity(limit=0, period=1e9).is_exceeded([end()] * 1000)


def test_a_healthy_stretch_begins_a_new_row_with_its_own_end() -> None:
    ends = [end(), end(ready_for=10), end(ready_for=9.9), end()]
    assert since_healthy(ends, 10) == ends[1:]
    assert since_healthy(ends, 9.9) == ends[2:]
    assert since_healthy(ends, 11) == ends
    assert failed_starts(ends) == 2


# ---- the fastest there can be


small = st.builds(
    Backoff,
    delay=st.sampled_from([0.0, 0.5, 1.0]),
    factor=st.sampled_from([1.0, 1.5, 2.0, 10.0]),
    max_delay=st.sampled_from([1.0, 4.0, 1000.0]),
    jitter=st.just(0.1),
)


def takes(backoff: Backoff, healthy_after: float, healthy: tuple[bool, ...]) -> float:
    """Seconds of one restart after each of these ends, all as fast as they can come; whether each was healthy."""
    ends: list[AttemptEnd] = []
    now = 0.0
    for is_healthy in healthy:
        now += healthy_after if is_healthy else 0.0
        ends.append(end(now, healthy_after if is_healthy else None))
        now += backoff.mean(len(since_healthy(ends, healthy_after)))
    return now


@given(small, st.integers(1, 9), st.sampled_from([0.0, 0.1, 1.0, 5.0, 100.0]))
def test_nothing_restarts_faster_than_the_fastest(backoff: Backoff, restarts: int, healthy_after: float) -> None:
    tried = itertools.product([False, True], repeat=restarts)
    fastest = min(takes(backoff, healthy_after, healthy) for healthy in tried)
    assert fastest_restarts(restarts, backoff, healthy_after) == pytest.approx(fastest)


@given(small, st.sampled_from([0.0, 0.1, 1.0, 5.0, 100.0]))
def test_no_endless_row_keeps_a_faster_pace(backoff: Backoff, healthy_after: float) -> None:
    pace = fastest_pace(backoff, healthy_after)
    rows = [(*(False,) * (length - 1), True) for length in range(1, 12)]
    paces = [
        (takes(backoff, healthy_after, row * 20) - takes(backoff, healthy_after, row * 10)) / len(row * 10)
        for row in rows
    ]
    paces.append(backoff.mean(1000))
    assert min(paces) >= pace * 0.999999
    # The longest rows of all are not among those tried.
    assert pace == pytest.approx(min(paces), rel=0.01) or pace >= backoff.mean(10) / 2


# ---- decisions


@pytest.mark.parametrize("decision", [None, GiveUp("why"), RestartAfter(0), RestartAfter(1.5)])
def test_a_decision_is_taken_as_it_is(decision: Any) -> None:
    assert checked(decision) is decision


@pytest.mark.parametrize(
    "decision",
    [
        3, "never", False, RestartAfter, GiveUp(3), RestartAfter("1s"), RestartAfter(True), RestartAfter(None),  # type: ignore[arg-type]
        RestartAfter(-0.1), RestartAfter(math.inf), RestartAfter(math.nan), RestartAfter(10**400),
    ],
)  # fmt: skip
def test_what_is_no_decision_is_refused(decision: Any) -> None:
    with pytest.raises(InvalidValue):
        checked(decision)
