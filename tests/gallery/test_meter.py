"""What people are told of an installation: every phase, not too often, with a rate, in Trio's thread."""

from __future__ import annotations

import threading

import pytest
import trio
import trio.testing

from trio_sup._releases import InstallPhase, InstallProgress
from trio_sup.gallery._meter import Meter, Rate


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def never(error: Exception) -> None:
    pytest.fail(f"the listener failed: {error!r}")


def test_the_rate_is_that_of_the_last_seconds() -> None:
    rate = Rate(window=5)
    assert rate.add(0, 10**9) == 0  # what an earlier try had downloaded was not downloaded now
    assert rate.add(1, 10**9 + 100) == 100
    for second in range(2, 20):
        found = rate.add(second, 10**9 + 100 + (second - 1) * 10)
    assert found == 10


def test_a_part_begun_anew_does_not_make_it_negative() -> None:
    rate = Rate()
    rate.add(0, 1000)
    assert rate.add(1, 0) == 0
    assert rate.add(2, 500) == 500


async def test_within_a_phase_ten_times_a_second_and_every_change() -> None:
    clock, told = Clock(), list[InstallProgress]()
    meter = Meter("one", told.append, failed=never, now=clock)
    for number in range(1000):
        clock.now += 0.001
        meter.report(InstallPhase.DOWNLOADING, number, 1000)
    meter.report(InstallPhase.DOWNLOADING, 1000, 1000)
    meter.report(InstallPhase.VERIFYING, 0, None)
    meter.report(InstallPhase.UNPACKING, 0, None)
    await trio.testing.wait_all_tasks_blocked()
    downloads = [each for each in told if each.phase is InstallPhase.DOWNLOADING]
    assert 10 <= len(downloads) <= 12
    assert [each.done_bytes for each in downloads] == sorted(each.done_bytes for each in downloads)
    assert downloads[-1].done_bytes == 1000
    assert downloads[-1].rate == pytest.approx(1000, rel=0.02)
    assert [each.phase for each in told[-2:]] == [InstallPhase.VERIFYING, InstallPhase.UNPACKING]


async def test_reports_of_threads_arrive_in_trios_thread_and_in_order() -> None:
    told: list[tuple[int, int]] = []
    here = threading.get_ident()
    meter = Meter("one", lambda p: told.append((threading.get_ident(), p.done_bytes)), failed=never, now=Clock())

    def work() -> None:
        for number in range(200):
            meter.report(InstallPhase.UNPACKING, number, number)  # the end of a part is always told

    await trio.to_thread.run_sync(work)
    await trio.testing.wait_all_tasks_blocked()
    assert told == [(here, number) for number in range(200)]


async def test_nothing_is_told_after_the_end() -> None:
    told: list[InstallProgress] = []
    meter = Meter("one", told.append, failed=never, now=Clock())
    meter.tell(InstallPhase.RESOLVING, detail="x")
    meter.report(InstallPhase.UNPACKING, 1, None)
    meter.close()
    meter.report(InstallPhase.VERIFYING, 1, None)
    await trio.testing.wait_all_tasks_blocked()
    assert [each.phase for each in told] == [InstallPhase.RESOLVING, InstallPhase.UNPACKING]


async def test_a_listener_that_raises_is_not_called_again() -> None:
    errors: list[Exception] = []
    calls = 0

    def listener(progress: InstallProgress) -> None:
        nonlocal calls
        calls += 1
        raise LookupError

    meter = Meter("one", listener, failed=errors.append, now=Clock())
    meter.report(InstallPhase.UNPACKING, 1, None)
    meter.report(InstallPhase.VERIFYING, 1, None)
    await trio.testing.wait_all_tasks_blocked()
    assert (calls, [type(error) for error in errors]) == (1, [LookupError])
