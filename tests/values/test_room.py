"""Who makes room for whom."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from random import Random

import attrs
import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from trio_sup import ProcessKey
from trio_sup._room import AwaitRoom, Bounds, Decision, Evict, Fits, Occupant, Refuse, Use, make_room

GIB = 2**30
NEW = ProcessKey("new")


def one(name: str, use: Use = Use.IDLE, *, cost: int = 0, used_at: float = 0.0) -> Occupant:
    return Occupant(key=ProcessKey(name), use=use, cost_bytes=cost, last_used_at=used_at)


def decide(*occupants: Occupant, cost: int = 0, running: int | None = None, memory: int | None = None) -> Decision:
    return make_room(NEW, cost, occupants, Bounds(max_running=running, memory_budget=memory))


def keys(*names: str) -> tuple[ProcessKey, ...]:
    return tuple(map(ProcessKey, names))


# ---- by examples


def test_without_bounds_everything_fits() -> None:
    assert decide(*(one(str(number), Use.PINNED, cost=GIB) for number in range(50)), cost=GIB) == Fits()


def test_up_to_its_bound_it_fits() -> None:
    assert decide(one("a"), running=2) == Fits()
    assert decide(one("a", cost=GIB), cost=GIB, memory=2 * GIB) == Fits()
    assert decide(running=1) == Fits()


def test_the_least_recently_used_idle_one_makes_room() -> None:
    occupants = (one("a", used_at=3), one("b", used_at=1), one("c", used_at=2))
    assert decide(*occupants, running=3) == Evict(keys("b"))
    assert decide(*occupants, running=2) == Evict(keys("b", "c"))


@pytest.mark.parametrize("use", [Use.LEASED, Use.PINNED, Use.STARTING, Use.STUCK])
def test_one_that_must_stay_stays_however_long_ago_it_was_used(use: Use) -> None:
    assert decide(one("a", use, used_at=-100), one("b"), running=2) == Evict(keys("b"))
    refusal = decide(one("a", use), running=1)
    assert refusal == Refuse("max_running allows 1 at once", [(ProcessKey("a"), use.value)])


def test_nobody_is_stopped_if_those_that_are_being_stopped_are_enough() -> None:
    assert decide(one("a", Use.STOPPING), one("b"), running=2) == AwaitRoom(keys("a"))
    stopping = one("a", Use.STOPPING, cost=GIB)
    assert decide(stopping, one("b", cost=GIB), cost=GIB, memory=2 * GIB) == AwaitRoom(keys("a"))


def test_what_is_being_stopped_counts_as_room_to_come() -> None:
    occupants = (one("a", Use.STOPPING, cost=GIB), one("b", cost=GIB, used_at=1), one("c", cost=GIB, used_at=2))
    assert decide(*occupants, cost=2 * GIB, memory=3 * GIB) == Evict(keys("b"))


def test_one_that_would_not_help_is_left_alone() -> None:
    occupants = (one("small", cost=1, used_at=1), one("large", cost=GIB, used_at=2))
    assert decide(*occupants, cost=GIB, memory=GIB + 1) == Evict(keys("large"))


def test_of_two_that_would_help_as_much_the_newer_one_is_spared() -> None:
    occupants = (one("a", cost=1, used_at=1), one("b", cost=1, used_at=2), one("c", cost=10, used_at=3))
    assert decide(*occupants, cost=11, memory=12) == Evict(keys("a", "c"))


def test_several_old_ones_go_before_a_newer_large_one() -> None:
    occupants = (one("a", cost=GIB, used_at=1), one("b", cost=GIB, used_at=2), one("c", cost=2 * GIB, used_at=3))
    assert decide(*occupants, cost=2 * GIB, memory=4 * GIB) == Evict(keys("a", "b"))


def test_one_that_needs_more_than_everything_is_refused_whoever_is_there() -> None:
    refusal = decide(one("a", cost=GIB), cost=5 * GIB, memory=4 * GIB)
    assert refusal == Refuse("it is declared to need 5 GiB, more than the whole memory_budget of 4 GiB")
    assert decide(running=0) == Refuse("nothing may run: max_running is 0")


def test_a_refusal_says_who_takes_up_the_room_and_why_each_stays() -> None:
    occupants = [one(use.name.lower(), use, cost=GIB) for use in Use]
    refusal = decide(*occupants, cost=5 * GIB, memory=6 * GIB, running=3)
    assert isinstance(refusal, Refuse)
    assert refusal.why == (
        "max_running allows 3 at once and of the memory_budget of 6 GiB, 7 GiB are taken, and it is declared to need "
        "5 GiB"
    )
    assert [(str(key), why) for key, why in refusal.holders] == [
        ("idle#0", "idle, but stopping it as well would not be enough"),
        ("leased#0", "in use"),
        ("pinned#0", "pinned"),
        ("needed#0", "needed by others that run"),
        ("starting#0", "starting"),
        ("stopping#0", "stopping, but that is not enough"),
        ("stuck#0", "could not be ended"),
    ]


def test_its_own_former_process_does_not_stand_in_its_way() -> None:
    assert decide(Occupant(key=NEW, use=Use.STOPPING, cost_bytes=GIB), cost=GIB, memory=GIB, running=1) == Fits()


@pytest.mark.parametrize(
    ("cost", "shown"), [(1023, "1023 B"), (1536, "1.5 KiB"), (5 * 2**20, "5 MiB"), (3 * 2**40, "3 TiB")]
)
def test_sizes_are_shown_as_people_write_them(cost: int, shown: str) -> None:
    refusal = decide(cost=cost, memory=1)
    assert isinstance(refusal, Refuse)
    assert f"need {shown}," in refusal.why


# ---- for whatever there is

COSTS = st.integers(0, 6)
OCCUPANTS = st.lists(
    st.builds(
        Occupant,
        key=st.builds(ProcessKey, st.sampled_from("abcdefgh"), st.integers(0, 1)),
        use=st.sampled_from(Use),
        last_used_at=st.sampled_from([0.0, 1.0, 2.0, 3.0]),
        cost_bytes=COSTS,
    ),
    max_size=8,
    unique_by=lambda occupant: occupant.key,
)
BOUNDS = st.builds(Bounds, max_running=st.none() | st.integers(0, 6), memory_budget=st.none() | st.integers(0, 20))


def within(bounds: Bounds, occupants: Sequence[Occupant], cost: int) -> bool:
    """Said once more, in other words."""
    few_enough = bounds.max_running is None or len(occupants) < bounds.max_running
    left = None if bounds.memory_budget is None else bounds.memory_budget - sum(each.cost_bytes for each in occupants)
    return few_enough and (left is None or left >= cost)


def without(occupants: Sequence[Occupant], leaving: Sequence[ProcessKey]) -> list[Occupant]:
    return [each for each in occupants if each.key not in leaving]


def of_use(occupants: Sequence[Occupant], use: Use) -> list[ProcessKey]:
    return [each.key for each in occupants if each.use is use]


@settings(max_examples=500)
@given(OCCUPANTS, COSTS, BOUNDS)
def test_each_answer_is_true(occupants: list[Occupant], cost: int, bounds: Bounds) -> None:
    answer = make_room(NEW, cost, occupants, bounds)
    stopping, idle = of_use(occupants, Use.STOPPING), of_use(occupants, Use.IDLE)
    staying = without(occupants, stopping)
    assert isinstance(answer, Fits) == within(bounds, occupants, cost)
    if isinstance(answer, AwaitRoom):
        assert list(answer.keys) == stopping
        assert within(bounds, staying, cost)
    if isinstance(answer, Evict):
        assert not within(bounds, staying, cost), "nobody would have had to be stopped"
        assert set(answer.keys) <= set(idle), "one was chosen that must stay"
        assert within(bounds, without(staying, answer.keys), cost), "it would not fit after all"
        for key in answer.keys:
            spared = [other for other in answer.keys if other != key]
            assert not within(bounds, without(staying, spared), cost), f"{key} did not have to go"
    really_none = not any(
        within(bounds, without(staying, leaving), cost)
        for count in range(len(idle) + 1)
        for leaving in itertools.combinations(idle, count)
    )
    assert isinstance(answer, Refuse) == really_none


@settings(max_examples=500)
@given(OCCUPANTS, COSTS, BOUNDS)
def test_the_least_recently_used_go_first(occupants: list[Occupant], cost: int, bounds: Bounds) -> None:
    answer = make_room(NEW, cost, occupants, bounds)
    if not isinstance(answer, Evict):
        return
    by_key = {each.key: each for each in occupants}
    chosen = [by_key[key] for key in answer.keys]
    assert [each.last_used_at for each in chosen] == sorted(each.last_used_at for each in chosen)
    newest = max(chosen, key=lambda each: (each.last_used_at, each.key))
    idle = [each for each in occupants if each.use is Use.IDLE]
    older = [each.key for each in idle if (each.last_used_at, each.key) < (newest.last_used_at, newest.key)]
    staying = without(occupants, of_use(occupants, Use.STOPPING))
    assert not within(bounds, without(staying, older), cost), "older ones would have been enough without the newest"


@settings(max_examples=300)
@given(OCCUPANTS, COSTS, BOUNDS, st.randoms(use_true_random=False))
def test_whoever_does_as_told_gets_room(occupants: list[Occupant], cost: int, bounds: Bounds, random: Random) -> None:
    """Played to the end: chosen ones are being stopped, then gone, in any order."""
    answer = make_room(NEW, cost, occupants, bounds)
    if isinstance(answer, Evict):
        leaving = set(answer.keys)
        occupants = [attrs.evolve(each, use=Use.STOPPING) if each.key in leaving else each for each in occupants]
        answer = make_room(NEW, cost, occupants, bounds)
        assert isinstance(answer, AwaitRoom)
        assert leaving <= set(answer.keys)
    while isinstance(answer, AwaitRoom):
        gone = random.choice(list(answer.keys))
        occupants = without(occupants, [gone])
        answer = make_room(NEW, cost, occupants, bounds)
        assert isinstance(answer, AwaitRoom | Fits), "what was promised did not come"


@given(OCCUPANTS, COSTS, BOUNDS)
def test_the_order_in_which_they_are_given_does_not_matter(
    occupants: list[Occupant], cost: int, bounds: Bounds
) -> None:
    answer = make_room(NEW, cost, occupants, bounds)
    other = make_room(NEW, cost, occupants[::-1], bounds)
    assert type(answer) is type(other)
    if isinstance(answer, Evict):
        assert answer == other
