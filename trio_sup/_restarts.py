"""When to start again, and when to give up: the arithmetic of restart policies, with time and randomness passed in."""

from __future__ import annotations

import itertools
import math
import random
import sys
from collections.abc import Sequence

import attrs

from .errors import InvalidValue
from .strategies import AttemptEnd, GiveUp, RestartAfter

REMEMBERED = 1000
"""The newest ends that a restart policy is told of; what needs more of them can never be decided."""


def checked(decision: object) -> RestartAfter | GiveUp | None:
    """What a restart policy decided, if it is a decision at all.

    Raises:
        InvalidValue: It is something else, or a delay that nobody can wait.
    """
    if decision is None:
        return None
    if isinstance(decision, GiveUp):
        if not isinstance(decision.why, str):
            raise InvalidValue(decision, "the reason for giving up must be a text")
        return decision
    if not isinstance(decision, RestartAfter):
        raise InvalidValue(decision, "expected RestartAfter, GiveUp or None")
    delay = decision.delay
    if not isinstance(delay, (int, float)) or isinstance(delay, bool) or not 0 <= delay <= sys.float_info.max:
        raise InvalidValue(decision, "the delay must be a number of seconds, finite and not negative")
    return decision


@attrs.frozen(kw_only=True)
class Backoff:
    """How long to wait: *delay* after the first failure, *factor* times as long after each further one.

    Args:
        delay: Seconds before the first restart; 0 for no waits at all.
        factor: At least 1.
        max_delay: Seconds beyond which the wait does not grow; not below *delay* unless *factor* is 1.
        jitter: Fraction of the wait, from 0 to below 1, by which chance shortens or lengthens it. That of the longest
            wait is lengthened too: it would otherwise be the one in which replicas restart in step.
    """

    delay: float
    factor: float
    max_delay: float
    jitter: float

    def mean(self, failures: int) -> float:
        """The wait after so many *failures* (1 is the first), chance left out."""
        if self.delay == 0 or self.factor == 1:
            return self.delay
        # Compared as logarithms: the power itself leaves the range of a float after a thousand failures.
        exponent = min(failures - 1, 2**53)
        if exponent * math.log(self.factor) >= math.log(self.max_delay) - math.log(self.delay):
            return self.max_delay
        return min(self.max_delay, self.delay * self.factor**exponent)

    def wait(self, failures: int, rng: random.Random) -> float:
        """The wait after so many *failures*, chance included."""
        return self.mean(failures) * (1 + rng.uniform(-self.jitter, self.jitter))


@attrs.frozen(kw_only=True)
class Intensity:
    """How many restarts are normal before they mean a fault: *limit* within *period* seconds; *limit* 0 for any."""

    limit: int
    period: float

    def is_exceeded(self, ends: Sequence[AttemptEnd]) -> bool:
        """Whether a restart after the last of *ends* would be one too many: each of the others was followed by one."""
        if not self.limit:
            return False
        recent = ends[-self.limit - 1 :]
        return len(recent) > self.limit and recent[-1].ended_at - recent[0].ended_at <= self.period


def since_healthy(ends: Sequence[AttemptEnd], healthy_after: float) -> Sequence[AttemptEnd]:
    """The ends since the last stretch of *healthy_after* seconds of readiness, the end of that one included."""
    for index in reversed(range(len(ends))):
        ready_for = ends[index].ready_for
        if ready_for is not None and ready_for >= healthy_after:
            return ends[index:]
    return ends


def failed_starts(ends: Sequence[AttemptEnd]) -> int:
    """How many of *ends* are those of attempts that were never ready."""
    return sum(end.ready_for is None for end in ends)


def fastest_restarts(restarts: int, backoff: Backoff, healthy_after: float) -> float:
    """The fewest seconds in which there can be so many *restarts* one after the other, however fast attempts fail.

    Chance is left out. A healthy stretch makes the waits short again, but takes its own time; some number of them is
    the fastest.
    """
    waits = [0.0, *itertools.accumulate(map(backoff.mean, range(1, restarts + 1)))]
    fastest = math.inf
    for rows in range(1, restarts + 1):
        # The waits only grow, so rows of equal length, as nearly as they can be, take the least time.
        length, longer = divmod(restarts, rows)
        waiting = longer * waits[length + 1] if longer else 0.0
        fastest = min(fastest, waiting + (rows - longer) * waits[length] + (rows - 1) * healthy_after)
    return fastest


def fastest_pace(backoff: Backoff, healthy_after: float) -> float:
    """The fewest seconds per restart, on average, that endless restarts can take, however fast attempts fail."""
    waits = itertools.accumulate(map(backoff.mean, range(1, REMEMBERED + 1)))
    with_stretches = min((waiting + healthy_after) / row for row, waiting in enumerate(waits, 1))
    return min(with_stretches, backoff.mean(REMEMBERED))
