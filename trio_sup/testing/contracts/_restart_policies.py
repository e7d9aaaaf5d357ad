"""The contract of restart policies."""

from __future__ import annotations

import functools
import math
import random
import time
from collections.abc import Callable, Sequence
from typing import ClassVar

import attrs
import pytest
from hypothesis import Phase as Stage
from hypothesis import given, settings
from hypothesis import strategies as st

from ..._phases import Cause, Phase
from ..._reports import ExitReport, ExitStatus
from ..._restart_schedule import play
from ..._restarts import REMEMBERED, checked
from ..._values import ProcessKey
from ...strategies import AttemptEnd, GiveUp, RestartAfter, RestartPolicy
from ._common import SYNCHRONOUS_LIMIT, StrategyContract, if_promised

_REPORT = ExitReport(
    key=ProcessKey("contract"),
    generation=1,
    pid=1,
    cause=Cause.EXITED,
    phase=Phase.READY,
    status=ExitStatus(code=1),
    success=False,
    ended_at=1e9,
    lived=1.0,
    stop_seconds=0.0,
)
_LONG_READY = 7 * 86400.0

_KINDS: dict[str, Callable[[int], AttemptEnd]] = {
    "failed start": lambda number: AttemptEnd(ended_at=0, ready_for=None, success=False, report=_REPORT),
    "failed start without a process": lambda number: AttemptEnd(ended_at=0, ready_for=None, success=False),
    "success before it was ready": lambda number: AttemptEnd(ended_at=0, ready_for=None, success=True, report=_REPORT),
    "crash at once": lambda number: AttemptEnd(ended_at=0, ready_for=0.0, success=False, report=_REPORT),
    "crash after a second": lambda number: AttemptEnd(ended_at=0, ready_for=1.0, success=False, report=_REPORT),
    "crash after a week": lambda number: AttemptEnd(ended_at=0, ready_for=_LONG_READY, success=False, report=_REPORT),
    "success": lambda number: AttemptEnd(ended_at=0, ready_for=0.0, success=True, report=_REPORT),
    "success after a week": lambda number: AttemptEnd(ended_at=0, ready_for=_LONG_READY, success=True, report=_REPORT),
    "failed starts and crashes": lambda number: AttemptEnd(
        ended_at=0, ready_for=[None, 0.0][number % 2], success=False
    ),
    "failures and successes": lambda number: AttemptEnd(ended_at=0, ready_for=0.0, success=bool(number % 2)),
}
"""What may come again and again: the end of attempt *number*, its instant left out."""

_at_once = [kind for kind in _KINDS if "week" not in kind and "second" not in kind]
_each_kind = pytest.mark.parametrize("kind", _KINDS)


@functools.cache
def _row(kind: str, length: int, gap: float = 0.0, began_at: float = 0.0) -> tuple[AttemptEnd, ...]:
    """So many ends of one kind, *gap* seconds apart, the time they were ready not counted."""
    ends, now = [], began_at
    for number in range(length):
        end = _KINDS[kind](number)
        now += end.ready_for or 0.0
        ends.append(attrs.evolve(end, ended_at=now))
        now += gap
    return tuple(ends)


_gaps = st.sampled_from([0, 1, 2, 5, 29, 60, 61, 299, 300, 3600, 86400])  # whole seconds are added without rounding


@st.composite
def _histories(draw: st.DrawFn) -> list[AttemptEnd]:
    ends, now = [], float(draw(_gaps))
    for number, (kind, gap) in enumerate(draw(st.lists(st.tuples(st.sampled_from(list(_KINDS)), _gaps), min_size=1))):
        end = _KINDS[kind](number)
        now += gap + (end.ready_for or 0.0)
        ends.append(attrs.evolve(end, ended_at=now))
    return ends


def _whatever_happens(test: Callable[[list[AttemptEnd], int], object]) -> None:
    """Call *test* with many histories and seeds."""

    # Not shrunk: a policy that has chance of its own would keep the shrinking busy for minutes.
    @settings(max_examples=60, deadline=None, database=None, phases=[Stage.explicit, Stage.generate])
    @given(_histories(), st.integers(0, 2**32))
    def tried(ends: list[AttemptEnd], seed: int) -> None:
        test(ends, seed)

    tried()


class _Extreme(random.Random):
    """Gives the least, or the greatest, number there is."""

    def __init__(self, number: float) -> None:
        super().__init__(0)
        self._left, self._number = 100, number  # what draws until a number suits it must come to an end

    def random(self) -> float:
        self._left -= 1
        return self._number if self._left >= 0 else super().random()


class RestartPolicyContract(StrategyContract):
    """Every restart policy must pass these. They use no clock, no process and no event loop.

    Attributes:
        gives_up_after: Failed starts in a row, however far apart, after which it has surely given up; None if that is
            not promised.
        leaves_successes: Whether what has ended with success is surely left ended.
        restarts_successes: Whether what has ended with success is surely started again, the first time at least.
        restarts_failures: Whether what has failed is surely started again, the first time at least.
        longest_wait: Seconds that no wait is longer than; None if that is not promised.
        healthy_after: Seconds of readiness after which the wait is surely as short as after a first failure; None if
            that is not promised.
        differs_by_chance: Whether replicas that fail at the same time are surely not restarted in step.
        least_wait: Seconds that endless restarts must at least wait on average.
    """

    kind = "restart policy"
    gives_up_after: ClassVar[int | None] = None
    leaves_successes: ClassVar[bool] = False
    restarts_successes: ClassVar[bool] = False
    restarts_failures: ClassVar[bool] = True
    longest_wait: ClassVar[float | None] = None
    healthy_after: ClassVar[float | None] = None
    differs_by_chance: ClassVar[bool] = False
    least_wait: ClassVar[float] = 0.1

    def make(self) -> RestartPolicy:
        """Make the strategy under test: a new one at each call."""
        raise NotImplementedError(f"{type(self).__qualname__} must define make()")

    def decide(self, ends: Sequence[AttemptEnd], rng: random.Random | int = 0) -> RestartAfter | GiveUp | None:
        """Ask a new policy, and check that it gives a decision."""
        rng = random.Random(rng) if isinstance(rng, int) else rng
        return checked(self.make().decide(ends, rng))

    # ---- a decision, whatever the history

    @_each_kind
    @pytest.mark.parametrize("length", [1, 2, 10, REMEMBERED])
    def test_it_decides(self, kind: str, length: int) -> None:
        self.decide(_row(kind, length))
        self.decide(_row(kind, length, gap=60.0, began_at=1e9))

    def test_it_decides_whatever_happens(self) -> None:
        _whatever_happens(self.decide)

    @_each_kind
    @pytest.mark.parametrize("number", [0.0, 1 - 2**-53], ids=["least", "greatest"])
    def test_it_decides_whatever_chance_gives(self, kind: str, number: float) -> None:
        for length in (1, 5, 100):
            self.decide(_row(kind, length, gap=60.0), _Extreme(number))

    @_each_kind
    def test_a_reason_for_giving_up_can_be_shown(self, kind: str) -> None:
        for length in range(1, 50):
            decision = self.decide(_row(kind, length))
            if isinstance(decision, GiveUp):
                assert 3 <= len(decision.why) <= 200, "one short clause that says why"
                assert decision.why.isprintable()

    # ---- by the history alone

    def test_the_same_history_and_chance_give_the_same_decision(self) -> None:
        def compare(ends: list[AttemptEnd], seed: int) -> None:
            assert self.decide(ends, seed) == self.decide(ends, seed)

        _whatever_happens(compare)

    def test_it_remembers_nothing_from_call_to_call(self) -> None:
        policy = self.make()

        def compare(ends: list[AttemptEnd], seed: int) -> None:
            # The same one decides about every backend that names it, in any order.
            assert policy.decide(ends, random.Random(seed)) == self.decide(ends, seed)

        _whatever_happens(compare)

    def test_chance_comes_from_the_given_generator_alone(self) -> None:
        def compare(ends: list[AttemptEnd], seed: int) -> None:
            before = random.getstate()
            first = self.decide(ends, seed)
            assert random.getstate() == before, "it uses the generator of the module `random`"
            random.random()
            assert self.decide(ends, seed) == first

        _whatever_happens(compare)

    def test_the_real_time_does_not_matter(self) -> None:
        ends = _row("crash after a second", 3, gap=60.0)
        first = self.decide(ends)
        time.sleep(0.002)
        assert self.decide(ends) == first

    @pytest.mark.parametrize("later", [1.0, 3600.0, 2.0**40])
    def test_the_origin_of_the_clock_does_not_matter(self, later: float) -> None:
        def compare(ends: list[AttemptEnd], seed: int) -> None:
            moved = [attrs.evolve(end, ended_at=end.ended_at + later) for end in ends]
            assert self.decide(moved, seed) == self.decide(ends, seed)

        _whatever_happens(compare)

    def test_the_history_is_left_as_it_is(self) -> None:
        def compare(ends: list[AttemptEnd], seed: int) -> None:
            given_ends = list(ends)
            self.decide(given_ends, seed)
            assert given_ends == ends

        _whatever_happens(compare)

    def test_any_kind_of_sequence_will_do(self) -> None:
        def compare(ends: list[AttemptEnd], seed: int) -> None:
            assert self.decide(tuple(ends), seed) == self.decide(ends, seed)

        _whatever_happens(compare)

    # ---- quickly

    @_each_kind
    @pytest.mark.parametrize("length", [1, REMEMBERED])
    def test_it_is_quick(self, kind: str, length: int) -> None:
        policy, took = self.make(), []
        ends = _row(kind, length, gap=60.0)
        for _ in range(5):
            began = time.perf_counter()
            policy.decide(ends, random.Random(0))
            took.append(time.perf_counter() - began)
        assert min(took) < SYNCHRONOUS_LIMIT, f"at best {min(took):.3f} s: everything else waits for it"

    # ---- nothing loops without a wait

    @pytest.mark.parametrize("kind", _at_once)
    @pytest.mark.parametrize("seed", range(3))
    def test_what_ends_at_once_is_given_up_or_waited_for(self, kind: str, seed: int) -> None:
        policy, rng = self.make(), random.Random(seed)
        ends: list[AttemptEnd] = []
        now = 0.0
        for number in range(2 * REMEMBERED):
            ends.append(attrs.evolve(_KINDS[kind](number), ended_at=now))
            decision = checked(policy.decide(ends[-REMEMBERED:], rng))
            if not isinstance(decision, RestartAfter):
                return
            now += decision.delay
        assert now / len(ends) >= self.least_wait, f"{len(ends)} restarts in {now:g} s, and no end to it"

    @pytest.mark.parametrize("kind", _at_once)
    def test_what_it_comes_to_can_be_shown(self, kind: str) -> None:
        end = _KINDS[kind](0)
        schedule = play(self.make(), ready_for=end.ready_for, success=end.success)
        assert math.isfinite(schedule.waited)

    # ---- what it promises

    @if_promised("gives_up_after")
    @pytest.mark.parametrize("gap", [0.0, 1.0, 3600.0, 86400.0])
    def test_failed_starts_in_a_row_make_it_give_up(self, gap: float) -> None:
        assert self.gives_up_after is not None
        assert isinstance(self.decide(_row("failed start", self.gives_up_after, gap)), GiveUp)

    @if_promised("gives_up_after")
    def test_it_goes_on_giving_up(self) -> None:
        assert self.gives_up_after is not None
        for length in range(self.gives_up_after, self.gives_up_after + 20):
            assert isinstance(self.decide(_row("failed start", length, 1.0)), GiveUp)

    @if_promised("leaves_successes")
    @pytest.mark.parametrize("kind", ["success", "success before it was ready", "success after a week"])
    @pytest.mark.parametrize("before", _KINDS)
    def test_a_success_is_left_ended(self, kind: str, before: str) -> None:
        ends = _row(before, 3)
        success = _row(kind, 1, began_at=ends[-1].ended_at + 1.0)
        assert self.decide(success) is None
        assert self.decide([*ends, *success]) is None

    @if_promised("restarts_successes")
    @pytest.mark.parametrize("kind", ["success", "success after a week"])
    def test_a_success_is_started_again(self, kind: str) -> None:
        assert isinstance(self.decide(_row(kind, 1)), RestartAfter)

    @if_promised("restarts_failures")
    @pytest.mark.parametrize("kind", [kind for kind in _KINDS if "success" not in kind])
    def test_a_failure_is_started_again(self, kind: str) -> None:
        assert isinstance(self.decide(_row(kind, 1)), RestartAfter)

    @if_promised("longest_wait")
    @pytest.mark.parametrize("number", [0.0, 0.5, 1 - 2**-53])
    @pytest.mark.parametrize("gap", [0.0, 100.0, 86400.0])
    def test_no_wait_is_longer_than_the_longest(self, number: float, gap: float) -> None:
        assert self.longest_wait is not None
        for kind in _KINDS:
            for length in (1, 5, 50, REMEMBERED):
                decision = self.decide(_row(kind, length, gap), _Extreme(number))
                assert not isinstance(decision, RestartAfter) or decision.delay <= self.longest_wait

    @if_promised("healthy_after")
    @pytest.mark.parametrize("before", range(5))
    def test_a_healthy_stretch_makes_the_wait_short_again(self, before: int) -> None:
        assert self.healthy_after is not None
        healthy = attrs.evolve(_KINDS["crash at once"](0), ready_for=self.healthy_after)
        ends = _row("crash at once", before, gap=3600.0)
        now = 3600.0 * before + self.healthy_after
        first = self.decide([attrs.evolve(healthy, ended_at=0.0)])
        assert self.decide([*ends, attrs.evolve(healthy, ended_at=now)]) == first

    @if_promised("differs_by_chance")
    @pytest.mark.parametrize("length", range(1, 5))
    def test_replicas_are_not_restarted_in_step(self, length: int) -> None:
        ends = _row("crash at once", length, gap=3600.0)
        decisions = [self.decide(ends, seed) for seed in range(20)]
        waits = {decision.delay for decision in decisions if isinstance(decision, RestartAfter)}
        assert len(waits) > 1
