"""What a restart policy comes to."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest

from trio_sup import InvalidValue
from trio_sup._restart_schedule import STEPS, Midway, Schedule, play
from trio_sup.strategies import AttemptEnd, GiveUp, RestartAfter


@attrs.define
class Scripted:
    """Decides as a function does, and writes down what it was told."""

    how: Callable[[Sequence[AttemptEnd]], Any]
    told: list[Sequence[AttemptEnd]] = attrs.field(factory=list)

    def decide(self, ends: Sequence[AttemptEnd], rng: random.Random) -> Any:
        self.told.append(ends)
        return self.how(ends)


def test_each_end_comes_at_the_instant_of_the_restart() -> None:
    policy = Scripted(lambda ends: RestartAfter(len(ends)) if len(ends) < 4 else GiveUp("enough"))
    assert play(policy, ready_for=None) == Schedule(delays=[1, 2, 3], outcome="given up", why="enough")
    assert [end.ended_at for end in policy.told[-1]] == [0, 1, 3, 6]
    assert {end.ready_for for end in policy.told[-1]} == {None}
    assert not any(end.success for end in policy.told[-1])


def test_the_time_it_was_ready_counts() -> None:
    policy = Scripted(lambda ends: RestartAfter(1) if len(ends) < 3 else None)
    assert play(policy, ready_for=10.0, success=True).outcome == "left ended"
    assert [end.ended_at for end in policy.told[-1]] == [10, 21, 32]
    assert {(end.ready_for, end.success) for end in policy.told[-1]} == {(10.0, True)}


def test_a_policy_that_never_gives_up_says_so() -> None:
    policy = Scripted(lambda ends: RestartAfter(min(len(ends), 3)))
    schedule = play(policy, ready_for=0.0)
    assert schedule.outcome == "goes on"
    assert schedule.rows == [(1, 1), (2, 1), (3, STEPS - 2)]
    assert schedule.waited == 3 + 3 * (STEPS - 2)
    assert max(map(len, policy.told)) == 1000


def test_what_a_policy_is_told_of_is_not_its_own_to_change() -> None:
    def clear(ends: Any) -> RestartAfter:
        if len(ends) > 1:
            ends.clear()
        return RestartAfter(1)

    with pytest.raises(AttributeError):
        play(Scripted(clear), ready_for=None)


def test_nonsense_is_refused() -> None:
    with pytest.raises(InvalidValue, match="expected RestartAfter"):
        play(Scripted(lambda ends: "soon"), ready_for=None)


# ---- chance left out


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: rng.uniform(2.0, 4.0),
        lambda rng: 2 + 2 * rng.random(),
        lambda rng: rng.triangular(2.0, 4.0),
        lambda rng: rng.gauss(3.0, 1.0),
        lambda rng: rng.normalvariate(3.0, 1.0),
        lambda rng: rng.choice([2, 3, 4]),
        lambda rng: rng.randint(2, 4),
    ],
)
def test_every_draw_comes_out_in_the_middle(draw: Callable[[random.Random], float]) -> None:
    rng = Midway()
    assert [draw(rng) for _ in range(10)] == pytest.approx([3.0] * 10)


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: rng.sample(range(10**6), 50),
        lambda rng: rng.betavariate(0.3, 0.2),
        lambda rng: rng.gammavariate(0.5, 1.0),
        lambda rng: next(number for number in iter(rng.random, None) if number > 0.9),
    ],
)
def test_what_draws_until_it_suits_comes_to_an_end(draw: Callable[[random.Random], Any]) -> None:
    draw(Midway())
