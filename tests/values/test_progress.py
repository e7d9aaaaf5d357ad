"""Signs of headway, from looks at what was used."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from trio_sup._progress import MINIMUM, SIGNS, WINDOW, Progress, Usage

MIB = 2**20
KIB = 2**10


def after(cpu: float = 0.0, reads: int = 0, memory: int = 0) -> Usage:
    """A usage of that much more than what the tests begin with."""
    return Usage(cpu_seconds=5.0 + cpu, read_bytes=MIB + reads, memory_bytes=100 * MIB + memory)


@pytest.fixture
def progress() -> Progress:
    return Progress(100.0, after(), 1000)


def test_nothing_gained_is_no_sign(progress: Progress) -> None:
    for now in (100.0, 101.0, 115.0, 1000.0):
        assert progress.look(now, after(), 1000) == frozenset()


@pytest.mark.parametrize(
    ("usage", "output", "signs"),
    [
        (after(cpu=0.21), 1000, {"cpu"}),
        (after(reads=64 * KIB), 1000, {"reads"}),
        (after(memory=MIB), 1000, {"memory"}),
        (after(), 1001, {"output"}),
        (after(cpu=1, reads=MIB, memory=MIB), 2000, {"cpu", "memory", "output", "reads"}),
        (after(cpu=0.1, reads=63 * KIB, memory=MIB - 1), 1000, set()),
    ],
)
def test_enough_of_something_is_its_sign(progress: Progress, usage: Usage, output: int, signs: set[str]) -> None:
    assert progress.look(101.0, usage, output) == signs
    assert progress.look(102.0, usage, output) == frozenset()


def test_what_is_gained_slowly_adds_up(progress: Progress) -> None:
    looks = [progress.look(100.0 + second, after(reads=second * 20 * KIB), 1000) for second in range(1, 9)]
    assert [bool(signs) for signs in looks] == [False, False, False, True] * 2


def test_what_is_gained_too_slowly_never_adds_up(progress: Progress) -> None:
    for second in range(1, 500):
        assert progress.look(100.0 + second, after(cpu=second * 0.015, reads=second * 5 * KIB), 1000) == frozenset()


def test_a_look_that_comes_late_asks_for_more(progress: Progress) -> None:
    assert progress.look(160.0, after(cpu=1.0), 1000) == frozenset()
    assert progress.look(220.0, after(cpu=2.3), 1000) == {"cpu"}


def test_when_processes_end_what_the_others_do_still_counts(progress: Progress) -> None:
    progress.look(101.0, after(cpu=100, reads=500 * MIB, memory=500 * MIB), 1000)
    assert progress.look(102.0, after(), 1000) == frozenset()
    assert progress.look(103.0, after(cpu=1, reads=MIB, memory=MIB), 1000) == {"cpu", "reads", "memory"}


def test_what_cannot_be_looked_at_counts_as_shown(progress: Progress) -> None:
    assert progress.look(101.0, None, 1000) == {"cpu", "memory", "reads"}
    assert progress.look(102.0, None, 1001) == set(SIGNS)
    # The next look has nothing to compare with, and the one after it has.
    assert progress.look(103.0, after(), 1001) == frozenset()
    assert progress.look(104.0, after(cpu=1), 1001) == {"cpu"}


def test_it_may_begin_without_a_look() -> None:
    progress = Progress(0.0, None, 0)
    assert progress.look(1.0, after(), 0) == frozenset()
    assert progress.look(2.0, after(memory=MIB), 0) == {"memory"}


def test_usage_beyond_an_earlier_one_is_never_negative() -> None:
    assert after(cpu=2, memory=3).beyond(after(cpu=1, reads=7)) == Usage(cpu_seconds=1.0, memory_bytes=3)


@given(
    rate=st.floats(0, 0.9),
    pauses=st.lists(st.floats(0.01, 3 * WINDOW), min_size=1, max_size=50),
)
def test_idling_below_the_minimum_is_never_a_sign_however_often_it_is_looked(rate: float, pauses: list[float]) -> None:
    now, progress = 0.0, Progress(0.0, Usage(), 0)
    for pause in pauses:
        now += pause
        gained = {sign: MINIMUM[sign] * rate * now / WINDOW for sign in SIGNS}
        usage = Usage(cpu_seconds=gained["cpu"], read_bytes=int(gained["reads"]), memory_bytes=int(gained["memory"]))
        assert progress.look(now, usage, 0) == frozenset()


@given(pauses=st.lists(st.floats(0.01, WINDOW), min_size=1, max_size=50), factor=st.floats(2.5, 100))
def test_steady_work_shows_at_least_once_in_every_window(pauses: list[float], factor: float) -> None:
    now, last_sign, progress = 0.0, 0.0, Progress(0.0, Usage(), 0)
    for pause in pauses:
        now += pause
        if progress.look(now, Usage(cpu_seconds=MINIMUM["cpu"] * factor * now / WINDOW), 0):
            last_sign = now
        assert now - last_sign <= WINDOW
