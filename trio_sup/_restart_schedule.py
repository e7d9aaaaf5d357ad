"""What a restart policy comes to: it is played against a backend that always fails in the same way."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from typing import Literal

import attrs

from ._restarts import REMEMBERED, checked
from .strategies import AttemptEnd, GiveUp, RestartPolicy

STEPS = REMEMBERED
"""Restarts after which a policy is taken to go on for ever: it could not be told of more."""


@attrs.frozen(kw_only=True)
class Schedule:
    """The waits before each restart, and what comes after the last one.

    Attributes:
        delays: Seconds.
        outcome: It is left ended, it is given up, or there is no end to it.
        why: The policy's reason for giving up.
    """

    delays: Sequence[float]
    outcome: Literal["left ended", "given up", "goes on"]
    why: str = ""

    @property
    def waited(self) -> float:
        """Seconds of all waits together."""
        return math.fsum(self.delays)

    @property
    def rows(self) -> Sequence[tuple[float, int]]:
        """The waits, and how often each comes in a row."""
        return [(delay, len(list(row))) for delay, row in itertools.groupby(self.delays)]


def play(policy: RestartPolicy, *, ready_for: float | None, success: bool = False) -> Schedule:
    """Ask *policy* about one end after the other, each at the very instant of the restart, chance left out.

    Args:
        ready_for: Seconds that each attempt is ready; None if each start fails.
        success: Whether each ends by itself with what counts as success.

    Raises:
        InvalidValue: It gave something that is no decision.
        Exception: Whatever the policy raised.
    """
    ends: list[AttemptEnd] = []
    delays: list[float] = []
    now = 0.0
    while len(delays) < STEPS:
        now += ready_for or 0.0
        ends.append(AttemptEnd(ended_at=now, ready_for=ready_for, success=success))
        decision = checked(policy.decide(tuple(ends), Midway()))
        if decision is None:
            return Schedule(delays=delays, outcome="left ended")
        if isinstance(decision, GiveUp):
            return Schedule(delays=delays, outcome="given up", why=decision.why)
        delays.append(decision.delay)
        now += decision.delay
    return Schedule(delays=delays, outcome="goes on")


class Midway(random.Random):
    """Takes the middle of every range, so that jitter cancels out.

    Only for the first numbers: what draws again until a number suits it would never end with the same one.
    """

    _DRAWS = 100

    def __init__(self) -> None:
        super().__init__(0)
        self._drawn = 0

    def random(self) -> float:
        self._drawn += 1
        return 0.5 if self._drawn <= self._DRAWS else super().random()

    def gauss(self, mu: float = 0.0, sigma: float = 1.0) -> float:
        return self.normalvariate(mu, sigma)  # which comes out at the mean; two equal numbers make gauss miss it
