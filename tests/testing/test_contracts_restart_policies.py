"""The built-in restart policies keep the contract, and it catches policies that are broken."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest

from trio_sup import InvalidValue
from trio_sup.defaults._restart_policies import Always, Never, OnFailure
from trio_sup.strategies import AttemptEnd, GiveUp, RestartAfter, RestartPolicy
from trio_sup.testing.contracts import RestartPolicyContract

pytestmark = pytest.mark.slow


class TestNever(RestartPolicyContract):
    leaves_successes = True
    restarts_failures = False

    def make(self) -> RestartPolicy:
        return Never()


class TestOnFailure(RestartPolicyContract):
    gives_up_after = 5
    leaves_successes = True
    longest_wait = 33.0
    healthy_after = 10.0
    differs_by_chance = True

    def make(self) -> RestartPolicy:
        return OnFailure()


class TestAlways(RestartPolicyContract):
    gives_up_after = 5
    restarts_successes = True
    longest_wait = 33.0
    healthy_after = 10.0
    differs_by_chance = True

    def make(self) -> RestartPolicy:
        return Always()


class TestAlwaysWithoutLimits(RestartPolicyContract):
    restarts_successes = True
    longest_wait = 2.0
    healthy_after = 60.0
    least_wait = 0.9

    def make(self) -> RestartPolicy:
        return Always(delay=1, max_delay=2, jitter=0, healthy_after=60, limit=0, max_start_failures=0)


class TestAlwaysWithoutWaits(RestartPolicyContract):
    gives_up_after = 10
    restarts_successes = True
    longest_wait = 0.0
    healthy_after = 0.5

    def make(self) -> RestartPolicy:
        return Always(delay=0, healthy_after=0.5, limit=900, period="15m", max_start_failures=10)


class TestAlwaysWithALongMemory(RestartPolicyContract):
    gives_up_after = 999
    restarts_successes = True

    def make(self) -> RestartPolicy:
        return Always(
            delay="1ms", factor=1.01, max_delay="2s", jitter=0.99, limit=999, period="1h", max_start_failures=999
        )


# ---- broken ones

Decide = Callable[..., Any]


@attrs.define
class Broken:
    """A policy whose decisions a function makes."""

    how: Decide
    calls: int = 0

    def decide(self, ends: Sequence[AttemptEnd], rng: random.Random) -> Any:
        self.calls += 1
        return self.how(self, ends, rng)


def blocks(policy: Broken, ends: Sequence[AttemptEnd], rng: random.Random) -> RestartAfter:
    time.sleep(0.06)
    return RestartAfter(1)


def empties(policy: Broken, ends: list[AttemptEnd], rng: random.Random) -> RestartAfter:
    if isinstance(ends, list):
        ends.clear()
    return RestartAfter(1)


def gives_up_once(policy: Broken, ends: Sequence[AttemptEnd], rng: random.Random) -> Any:
    return GiveUp("that was it") if len(ends) == 5 else RestartAfter(1)


def leaves_some_successes(policy: Broken, ends: Sequence[AttemptEnd], rng: random.Random) -> Any:
    return None if ends[-1].success and len(ends) == 1 else RestartAfter(1)


def slows_down_too_late(policy: Broken, ends: Sequence[AttemptEnd], rng: random.Random) -> Any:
    return RestartAfter(0) if len(ends) < 1000 else RestartAfter(1e-3)


BROKEN: dict[str, tuple[Decide, str, type[Exception]]] = {
    "no decision": (lambda policy, ends, rng: 3.0, "test_it_decides", InvalidValue),
    "a wait below 0": (lambda policy, ends, rng: RestartAfter(-1.0), "test_it_decides", InvalidValue),
    "a wait for ever": (lambda policy, ends, rng: RestartAfter(float("inf")), "test_it_decides", InvalidValue),
    "no number": (lambda policy, ends, rng: RestartAfter(float("nan")), "test_it_decides", InvalidValue),
    "overflow": (lambda policy, ends, rng: RestartAfter(0.5 * 8.0 ** len(ends)), "test_it_decides", OverflowError),
    "no reason": (
        lambda policy, ends, rng: GiveUp(""), "test_a_reason_for_giving_up_can_be_shown", AssertionError,
    ),
    "below 0 with luck": (
        lambda policy, ends, rng: RestartAfter(1 + rng.uniform(-2, 0)),
        "test_it_decides_whatever_chance_gives",
        InvalidValue,
    ),
    "counts its calls": (
        lambda policy, ends, rng: RestartAfter(policy.calls),
        "test_it_remembers_nothing_from_call_to_call",
        AssertionError,
    ),
    "its own chance": (
        lambda policy, ends, rng: RestartAfter(random.random()),
        "test_chance_comes_from_the_given_generator_alone",
        AssertionError,
    ),
    "its own generator": (
        lambda policy, ends, rng: RestartAfter(random.SystemRandom().random()),
        "test_the_same_history_and_chance_give_the_same_decision",
        AssertionError,
    ),
    "the clock on the wall": (
        lambda policy, ends, rng: RestartAfter(time.monotonic()),
        "test_the_real_time_does_not_matter",
        AssertionError,
    ),
    "the instant itself": (
        lambda policy, ends, rng: RestartAfter(ends[-1].ended_at),
        "test_the_origin_of_the_clock_does_not_matter",
        AssertionError,
    ),
    "empties its argument": (empties, "test_the_history_is_left_as_it_is", AssertionError),
    "wants a list": (
        lambda policy, ends, rng: RestartAfter(len(ends.copy())), "test_any_kind_of_sequence_will_do", AttributeError,
    ),
    "blocks": (blocks, "test_it_is_quick", AssertionError),
    "loops": (
        lambda policy, ends, rng: RestartAfter(0),
        "test_what_ends_at_once_is_given_up_or_waited_for",
        AssertionError,
    ),
    "loops in the end": (
        slows_down_too_late, "test_what_ends_at_once_is_given_up_or_waited_for", AssertionError,
    ),
    "never gives up": (
        lambda policy, ends, rng: RestartAfter(1), "test_failed_starts_in_a_row_make_it_give_up", AssertionError,
    ),
    "gives up by time": (
        lambda policy, ends, rng: (
            GiveUp("too fast") if ends[-1].ended_at - ends[0].ended_at < 60 and len(ends) > 4 else RestartAfter(1)
        ),
        "test_failed_starts_in_a_row_make_it_give_up",
        AssertionError,
    ),
    "changes its mind": (gives_up_once, "test_it_goes_on_giving_up", AssertionError),
    "restarts some successes": (leaves_some_successes, "test_a_success_is_left_ended", AssertionError),
    "leaves successes": (
        lambda policy, ends, rng: None if ends[-1].success else RestartAfter(1),
        "test_a_success_is_started_again",
        AssertionError,
    ),
    "leaves failures": (lambda policy, ends, rng: None, "test_a_failure_is_started_again", AssertionError),
    "has no longest wait": (
        lambda policy, ends, rng: RestartAfter(len(ends)), "test_no_wait_is_longer_than_the_longest", AssertionError,
    ),
    "never forgets": (
        lambda policy, ends, rng: RestartAfter(len(ends)),
        "test_a_healthy_stretch_makes_the_wait_short_again",
        AssertionError,
    ),
    "in step": (lambda policy, ends, rng: RestartAfter(1), "test_replicas_are_not_restarted_in_step", AssertionError),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_the_contract_catches(name: str) -> None:
    how, test, error = BROKEN[name]

    class Contract(RestartPolicyContract):
        gives_up_after = 5
        leaves_successes = restarts_successes = True
        longest_wait = 33.0
        healthy_after = 10.0
        differs_by_chance = True

        def make(self) -> RestartPolicy:
            return Broken(how)

    with pytest.raises(error):
        run(getattr(Contract(), test))


def run(test: Any) -> None:
    for arguments in arguments_of(test):
        test(**arguments)


def arguments_of(test: Any) -> list[dict[str, Any]]:
    """Every combination of arguments with which pytest would call *test*."""
    marks = [mark.args for mark in getattr(test, "pytestmark", ()) if mark.name == "parametrize"]
    names = [name for name, _ in marks]
    return [dict(zip(names, values, strict=True)) for values in itertools.product(*(values for _, values in marks))]


def test_every_test_of_the_contract_catches_something() -> None:
    tests = {name for name in vars(RestartPolicyContract) if name.startswith("test_")}
    # Whether it can be shown follows from its decisions; the test is about the tool that shows it.
    left_out = {"test_it_decides_whatever_happens", "test_what_it_comes_to_can_be_shown"}
    assert tests - left_out == {test for _, test, _ in BROKEN.values()}
