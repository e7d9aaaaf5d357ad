"""The built-in restart policies."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from typing import Any

import attrs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trio_sup import Choice, InvalidOptions, InvalidValue
from trio_sup._restart_schedule import Midway, play
from trio_sup.defaults._restart_policies import Always, Never, OnFailure
from trio_sup.engine._plugins import Plugins
from trio_sup.strategies import AttemptEnd, GiveUp, RestartAfter, RestartPolicy


def ends(*ready_for: float | None, gap: float = 0.0, success: bool = False) -> list[AttemptEnd]:
    """Ends *gap* seconds apart, each after so many seconds of readiness; None for a failed start."""
    return [AttemptEnd(ended_at=number * gap, ready_for=each, success=success) for number, each in enumerate(ready_for)]


def wait_of(policy: RestartPolicy, history: list[AttemptEnd]) -> float:
    decision = policy.decide(history, Midway())
    assert isinstance(decision, RestartAfter)
    return decision.delay


def why_of(policy: RestartPolicy, history: list[AttemptEnd]) -> str:
    decision = policy.decide(history, Midway())
    assert isinstance(decision, GiveUp)
    return decision.why


# ---- which ends are followed by a restart


def test_never_is_the_default_and_leaves_everything_ended() -> None:
    assert next(iter(Plugins().offered("restart policy"))) == "never"
    policy: RestartPolicy = Never()
    for history in (ends(None), ends(0.0), ends(100.0), ends(100.0, success=True)):
        assert policy.decide(history, random.Random()) is None


@pytest.mark.parametrize("ready_for", [None, 0.0, 1000.0])
def test_on_failure_leaves_a_success_ended(ready_for: float | None) -> None:
    assert OnFailure().decide(ends(ready_for, success=True), random.Random()) is None
    assert wait_of(OnFailure(), ends(ready_for)) == 0.5


@pytest.mark.parametrize("ready_for", [None, 0.0, 1000.0])
@pytest.mark.parametrize("success", [True, False])
def test_always_restarts(ready_for: float | None, success: bool) -> None:
    assert wait_of(Always(), ends(ready_for, success=success)) == 0.5


# ---- how long it waits


@pytest.mark.parametrize("policy", [OnFailure(), Always()])
def test_the_wait_doubles_from_half_a_second_to_thirty(policy: RestartPolicy) -> None:
    waits = [wait_of(policy, ends(*[0.0] * count, gap=1000.0)) for count in range(1, 10)]
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_failed_starts_and_crashes_count_alike() -> None:
    assert wait_of(Always(), ends(None, 0.0, None, 3.0)) == 4


@pytest.mark.parametrize(("ready_for", "wait"), [(9.9, 8.0), (10.0, 0.5), (1e6, 0.5)])
def test_a_healthy_stretch_makes_the_wait_short_again(ready_for: float, wait: float) -> None:
    assert wait_of(Always(), ends(0.0, 0.0, 0.0, 0.0, ready_for, gap=1000.0)) == wait


def test_after_a_healthy_stretch_the_wait_grows_anew() -> None:
    assert wait_of(Always(), ends(0.0, 0.0, 50.0, 0.0, 0.0, gap=1000.0)) == 2


def test_chance_shortens_and_lengthens_each_wait_by_a_tenth() -> None:
    waits = []
    for seed in range(300):
        decision = Always().decide(ends(0.0), random.Random(seed))
        assert isinstance(decision, RestartAfter)
        waits.append(decision.delay)
    assert 0.45 <= min(waits) < 0.455
    assert 0.545 < max(waits) <= 0.55


def test_without_jitter_nothing_is_left_to_chance() -> None:
    policy = Always(jitter=0)
    assert {policy.decide(ends(0.0), random.Random(seed)) for seed in range(10)} == {RestartAfter(0.5)}


# ---- when it gives up


@pytest.mark.parametrize("gap", [0.0, 100.0, 1e6])
def test_five_failed_starts_in_a_row_are_enough_whatever_time_they_took(gap: float) -> None:
    assert wait_of(Always(), ends(*[None] * 4, gap=gap)) == 4
    assert why_of(Always(), ends(*[None] * 5, gap=gap)) == "5 failed starts in a row"


def test_only_a_healthy_stretch_forgets_failed_starts() -> None:
    assert why_of(Always(), ends(None, None, 1.0, None, None, None, gap=1000.0)) == "5 failed starts in a row"
    assert wait_of(Always(), ends(None, None, 10.0, None, None, None, gap=1000.0)) == 4


def test_more_than_five_restarts_in_five_minutes_are_too_many() -> None:
    assert wait_of(Always(), ends(*[0.0] * 5, gap=1.0)) == 8
    assert why_of(Always(), ends(*[0.0] * 6, gap=60.0)) == "more than 5 restarts within 5 min"
    assert wait_of(Always(), ends(*[0.0] * 6, gap=60.1)) == 16


def test_healthy_stretches_do_not_excuse_restarts_that_come_too_fast() -> None:
    assert why_of(Always(), ends(*[20.0] * 6, gap=21.0)) == "more than 5 restarts within 5 min"


def test_successes_count_too_when_they_are_followed_by_restarts() -> None:
    assert why_of(Always(), ends(*[1.0] * 6, gap=2.0, success=True)) == "more than 5 restarts within 5 min"


def test_limits_can_be_left_out() -> None:
    assert wait_of(Always(max_start_failures=0), ends(*[None] * 900, gap=1000.0)) == 30
    assert wait_of(Always(limit=0), ends(*[0.0] * 900)) == 30


def test_a_history_that_was_cut_changes_nothing() -> None:
    policy = Always(max_start_failures=999, limit=999, period="100h")
    assert why_of(policy, ends(*[None] * 999)[-1000:]) == "999 failed starts in a row"
    assert why_of(policy, ends(*[0.0] * 2000)[-1000:]) == "more than 999 restarts within 100 h"


# ---- what is refused


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"delay": "1m"}, "max_delay", r"below delay \(1 min\): raise max_delay, lower delay, or set factor to 1"),
    ({"delay": 5, "max_delay": 4.9}, "max_delay", "below delay"),
    ({"factor": 1, "max_delay": "10s"}, "max_delay", "no effect with factor 1"),
    ({"factor": 3, "delay": 5, "max_delay": 5}, "factor", r"delay is max_delay \(5 s\) already"),
    ({"factor": 1.001}, "max_delay", "not reached in 1000 restarts with factor 1.001"),
    ({"delay": 0, "factor": 3}, "factor", "no effect with delay 0"),
    ({"delay": 0, "max_delay": 3}, "max_delay", "no effect with delay 0"),
    ({"delay": 0, "jitter": 0.5}, "jitter", "no effect with delay 0"),
    ({"delay": 0, "limit": 0}, "delay", "without end: raise delay, or set limit"),
    ({"delay": 0, "limit": 301}, "delay", "lower limit, or raise period to 5 min 1 s"),
    ({"delay": 0.5, "factor": 1, "limit": 0}, "delay", "every 0.5 s without end"),
    ({"max_delay": 0.9, "limit": 0}, "delay", "every 0.9 s without end"),
    ({"healthy_after": 0, "limit": 0}, "delay", "every 0.5 s without end"),
    ({"limit": 0, "period": "1m"}, "period", "no effect with limit 0"),
    ({"period": "15s"}, "period", "too short for limit, 5 restarts take at least 15 s"),
    ({"limit": 100, "period": "1m"}, "period", "too short for limit"),
    ({"delay": "1m", "factor": 1}, "period", "5 restarts take at least 5 min"),
    ({"factor": 1, "max_start_failures": 0, "healthy_after": 5}, "healthy_after", "max_start_failures is 0"),
    ({"factor": 0.99}, "factor", "from 1 to 1000"),
    ({"factor": 1e9}, "factor", "from 1 to 1000"),
    ({"factor": float("nan")}, "factor", "from 1 to 1000"),
    ({"factor": True}, "factor", "from 1 to 1000"),
    ({"jitter": 1}, "jitter", "from 0 to below 1"),
    ({"jitter": -0.1}, "jitter", "from 0 to below 1"),
    ({"delay": -1}, "delay", "negative"),
    ({"delay": "soon"}, "delay", "expected a duration"),
    ({"max_delay": float("inf")}, "max_delay", "finite"),
    ({"period": 0}, "period", "longer than 0"),
    ({"limit": 1000}, "limit", "from 0 to 999"),
    ({"limit": 2.0}, "limit", "whole number"),
    ({"limit": True}, "limit", "whole number"),
    ({"max_start_failures": -1}, "max_start_failures", "from 0 to 999"),
]


@pytest.mark.parametrize(("options", "field", "why"), REFUSED, ids=lambda value: str(value)[:60])
@pytest.mark.parametrize("policy", [OnFailure, Always])
def test_settings_that_cannot_take_effect_are_refused(
    policy: type[Always], options: Mapping[str, Any], field: str, why: str
) -> None:
    with pytest.raises(InvalidValue, match=rf"^{field}: .*{why}") as caught:
        policy(**options)
    assert not caught.value.why.startswith(f"{field}: {field}: ")
    # Another field that has a part in it is named as well.
    assert len(options) == 1 or any(name in caught.value.why for name in options if name != field)


@pytest.mark.parametrize("name", ["on-failure", "always"])
def test_a_problem_with_options_names_its_field_as_its_path(name: str) -> None:
    with pytest.raises(InvalidOptions) as caught:
        Plugins().make("restart policy", Choice(name, delay="1m"))
    (problem,) = caught.value.problems
    assert problem.startswith("max_delay: must not be below delay")


def test_never_has_no_options() -> None:
    with pytest.raises(InvalidOptions, match="unknown key"):
        Plugins().make("restart policy", Choice("never", limit=3))


@pytest.mark.parametrize(
    "options",
    [
        {"delay": 0},
        {"delay": 0, "limit": 300},
        {"delay": 0, "jitter": 0},
        {"delay": 0, "limit": 900, "period": "15m", "max_start_failures": 0},
        {"limit": 0},
        {"limit": 0, "max_start_failures": 0},
        {"factor": 1},
        {"factor": 1, "delay": 30},
        {"factor": 1, "delay": 7, "max_delay": 7},
        {"delay": 30, "period": "3m"},
        {"delay": 1, "factor": 1, "limit": 0},
        {"period": "15100ms"},
        {"limit": 100, "period": "8m"},
    ],
    ids=str,
)
def test_settings_that_make_sense_are_taken(options: Mapping[str, Any]) -> None:
    policy = Always(**options)
    assert attrs.evolve(policy) == policy


sensible = st.fixed_dictionaries(
    {},
    optional={
        "delay": st.sampled_from([0, 0.001, 0.3, 1, 10]),
        "factor": st.sampled_from([1, 1.1, 2, 1000]),
        "max_delay": st.sampled_from([0.001, 0.5, 1, 60]),
        "jitter": st.sampled_from([0, 0.5, 0.99]),
        "healthy_after": st.sampled_from([0, 0.1, 1, 100]),
        "limit": st.sampled_from([0, 1, 2, 50, 300, 999]),
        "period": st.sampled_from([0.01, 1, 60, 999, 86400]),
        "max_start_failures": st.sampled_from([0, 1, 100, 999]),
    },
)


@settings(deadline=None, max_examples=300)
@given(sensible, st.sampled_from([None, 0.0, "healthy", "mixed"]))
def test_nothing_that_is_taken_restarts_for_ever_faster_than_once_per_second(options: Any, story: Any) -> None:
    try:
        policy = Always(**options)
    except InvalidValue:
        return
    history: list[AttemptEnd] = []
    now, restarts = 0.0, 1500
    for number in range(restarts):
        healthy = story == "healthy" or (story == "mixed" and number % 4 == 0)
        ready_for = policy.healthy_after if healthy else 0.0 if story == "mixed" else story
        now += ready_for or 0.0
        history.append(AttemptEnd(ended_at=now, ready_for=ready_for, success=False))
        decision = policy.decide(history[-1000:], Midway())
        if isinstance(decision, GiveUp):
            return
        assert isinstance(decision, RestartAfter)
        now += decision.delay
    assert now >= (restarts - policy.limit) * 0.999 - policy.healthy_after


@settings(deadline=None, max_examples=300)
@given(sensible)
@example({"factor": 2, "delay": 10, "period": 999, "limit": 50})  # 990 s in 25 rows, and more in any others
def test_a_limit_that_is_taken_can_be_reached(options: Any) -> None:
    try:
        policy = Always(**{**options, "max_start_failures": 0})
    except InvalidValue:
        return
    if not policy.limit:
        return
    # In so many rows, each but the first begun by the end of a healthy stretch: with some number of them it is enough.
    for rows in range(1, policy.limit + 1):
        length, longer = divmod(policy.limit, rows)
        ends_of_rows = itertools.accumulate([length + 1] * longer + [length] * (rows - longer - 1))
        after_stretches = set(ends_of_rows)
        history: list[AttemptEnd] = []
        now = 0.0
        for number in range(policy.limit + 1):
            ready_for = policy.healthy_after if number in after_stretches else None
            now += ready_for or 0.0
            history.append(AttemptEnd(ended_at=now, ready_for=ready_for, success=False))
            decision = policy.decide(history, Midway())
            if isinstance(decision, GiveUp):
                return
            assert isinstance(decision, RestartAfter)
            now += decision.delay
            if now > policy.period:
                break
    pytest.fail(f"{policy} never gives up")


def test_the_schedule_of_the_defaults() -> None:
    failing, crashing = play(OnFailure(), ready_for=None), play(OnFailure(), ready_for=0.0)
    assert (failing.delays, failing.waited, failing.outcome) == ([0.5, 1, 2, 4], 7.5, "given up")
    assert (crashing.delays, crashing.waited, crashing.outcome) == ([0.5, 1, 2, 4, 8], 15.5, "given up")
