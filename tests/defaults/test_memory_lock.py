"""The install lock between tasks: readers share, writers are alone, and nobody is passed over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from trio_sup.defaults._memory_lock import MemoryLock


@attrs.define
class Log:
    """Holds locks, writes down who got one, and checks that nobody is in who must not be."""

    lock: MemoryLock = attrs.field(factory=MemoryLock)
    got: list[str] = attrs.field(factory=list)
    inside: list[bool] = attrs.field(factory=list)

    @contextmanager
    def _in(self, name: str, shared: bool) -> Iterator[None]:
        self.got.append(name)
        self.inside.append(shared)
        assert all(self.inside) or len(self.inside) == 1
        yield
        self.inside.remove(shared)

    async def hold(self, name: str, shared: bool, until: trio.Event) -> None:
        async with self.lock.hold("b", shared=shared):
            with self._in(name, shared):
                await until.wait()

    async def hold_for(self, name: str, shared: bool, after: float, seconds: float, patience: float) -> None:
        await trio.sleep(after)
        with trio.move_on_after(patience) as wait_scope:
            async with self.lock.hold("b", shared=shared):
                wait_scope.deadline = float("inf")
                with self._in(name, shared):
                    await trio.sleep(seconds)


async def test_readers_share_and_a_writer_is_alone() -> None:
    log = Log()
    over = {name: trio.Event() for name in ("r1", "r2", "w", "r3")}
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for name, event in over.items():
                nursery.start_soon(log.hold, name, name != "w", event)
                await trio.testing.wait_all_tasks_blocked()
            assert log.got == ["r1", "r2"]
            over["r1"].set()
            await trio.testing.wait_all_tasks_blocked()
            assert log.got == ["r1", "r2"]
            over["r2"].set()
            await trio.testing.wait_all_tasks_blocked()
            assert log.got == ["r1", "r2", "w"]
            over["w"].set()
            await trio.testing.wait_all_tasks_blocked()
            assert log.got == ["r1", "r2", "w", "r3"]
            over["r3"].set()
    assert not log.lock._entries


async def test_readers_that_keep_coming_do_not_starve_a_writer(autojump_clock: trio.testing.MockClock) -> None:
    log = Log()
    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(log.hold_for, f"r{number}", True, number, 1.5, 1000)
            nursery.start_soon(log.hold_for, "w", False, 5.2, 1, 1000)
    assert log.got.index("w") == 6


async def test_a_writer_that_gives_up_lets_the_readers_behind_it_in(autojump_clock: trio.testing.MockClock) -> None:
    log = Log()
    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.hold_for, "r1", True, 0, 50, 1000)
            nursery.start_soon(log.hold_for, "w", False, 1, 50, 10)
            nursery.start_soon(log.hold_for, "r2", True, 2, 0, 1000)
            await trio.sleep(10.5)
            assert log.got == ["r1"]
            await trio.sleep(1)
            assert log.got == ["r1", "r2"]
    assert not log.lock._entries


async def test_a_grant_that_meets_a_cancellation_is_not_lost(autojump_clock: trio.testing.MockClock) -> None:
    log = Log()
    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.hold_for, "w1", False, 0, 5, 1000)
            nursery.start_soon(log.hold_for, "w2", False, 1, 5, 4)  # gives up at the instant it gets the lock
            nursery.start_soon(log.hold_for, "w3", False, 2, 5, 1000)
    assert "w3" in log.got
    assert not log.lock._entries


async def test_backends_do_not_wait_for_each_other() -> None:
    lock = MemoryLock()
    with trio.fail_after(5):
        async with lock.hold("a", shared=False), lock.hold("b", shared=False):
            assert set(lock._entries) == {"a", "b"}
    assert not lock._entries


async def test_the_lock_is_freed_by_an_exception() -> None:
    lock = MemoryLock()
    with pytest.raises(ValueError, match="in the block"):
        async with lock.hold("a", shared=False):
            raise ValueError("in the block")
    assert not lock._entries


STEP = st.tuples(st.booleans(), st.integers(0, 20), st.integers(0, 5), st.integers(0, 8))


@given(st.lists(STEP, max_size=12))
def test_whoever_comes_goes_or_gives_up_readers_and_writers_never_meet(steps: list[tuple[bool, int, int, int]]) -> None:
    log = Log()

    async def play() -> None:
        async with trio.open_nursery() as nursery:
            for number, (shared, after, seconds, patience) in enumerate(steps):
                nursery.start_soon(log.hold_for, str(number), shared, after, seconds, patience + 0.5)

    trio.run(play, clock=trio.testing.MockClock(autojump_threshold=0))
    assert not log.lock._entries


async def test_who_holds_it_is_told() -> None:
    lock = MemoryLock()
    assert list(lock.holders("b")) == []

    async def hold_it(task_status: trio.TaskStatus[None]) -> None:
        async with lock.hold("b", shared=True):
            task_status.started()
            await trio.sleep_forever()

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            await nursery.start(hold_it, name="the first")
            await nursery.start(hold_it, name="the second")
            nursery.start_soon(lambda: lock.hold("b", shared=False).__aenter__(), name="who waits")
            await trio.testing.wait_all_tasks_blocked()
            told = [f"the task {name!r} of this process" for name in ("the first", "the second")]
            assert list(lock.holders("b")) == told
            nursery.cancel_scope.cancel()
    assert list(lock.holders("b")) == []
