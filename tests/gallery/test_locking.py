"""Several locks at once: always in one order, and whoever waits hears for whom."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing

from trio_sup.defaults._memory_lock import MemoryLock
from trio_sup.gallery._locking import TELL_EVERY, installation_of, locks_held


@attrs.define(eq=False)
class Nested:
    """A lock of a plugin whose blocks have a nursery of their own, as is its right."""

    inner: MemoryLock = attrs.field(factory=MemoryLock)

    @asynccontextmanager
    async def hold(self, backend: str, *, shared: bool) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            async with self.inner.hold(backend, shared=shared):
                yield
            nursery.cancel_scope.cancel()


class Rude(Nested):
    def holders(self, backend: str) -> Sequence[str]:
        raise LookupError("a bug")


def unheard(what: str) -> None:
    pytest.fail(f"told to wait for {what}")


async def test_those_who_need_several_never_wait_for_each_other(autojump_clock: trio.testing.MockClock) -> None:
    lock = MemoryLock()
    inside = 0

    async def take(*names: str) -> None:
        nonlocal inside
        for _ in range(20):
            async with locks_held(lock, names, waiting=lambda what: None):
                inside += 1
                assert inside == 1
                await trio.sleep(0.01)
                inside -= 1

    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:
            for names in (("a", "b"), ("b", "a"), ("b", "c", "a"), ("a", "a", "c")):
                nursery.start_soon(take, *names)


async def test_a_short_wait_is_not_worth_a_word_and_a_long_one_is_told_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lock = MemoryLock()
    told: list[tuple[float, str]] = []

    async def wait(name: str) -> None:
        async with locks_held(lock, [name], waiting=lambda what: told.append((trio.current_time(), what))):
            pass

    async with trio.open_nursery() as nursery:
        async with lock.hold("short", shared=True):
            nursery.start_soon(wait, "short")
            await trio.sleep(0.05)
        async with lock.hold(installation_of("long"), shared=False):
            begun = trio.current_time()
            nursery.start_soon(wait, installation_of("long"))
            await trio.sleep(0.2 + 2 * TELL_EVERY)
    assert [round(at - begun, 3) for at, _ in told] == [0.1, 0.1 + TELL_EVERY, 0.1 + 2 * TELL_EVERY]
    assert {what.partition(", held by the task ")[0] for _, what in told} == {"another installation of long"}


@pytest.mark.parametrize("lock", [Nested(), Rude()])
async def test_a_lock_of_a_plugin_need_not_know_its_holders(
    lock: Nested, autojump_clock: trio.testing.MockClock
) -> None:
    told: list[str] = []
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            async with locks_held(lock, ["one", "two"], waiting=told.append):
                pass

        async with lock.inner.hold("two", shared=True):
            nursery.start_soon(wait)
            await trio.sleep(0.5)
    assert told == ["the install lock of two"]


async def test_what_the_block_raises_is_raised_as_it_is() -> None:
    with pytest.raises(LookupError, match="mine"):
        async with locks_held(Nested(), ["one"], waiting=unheard):
            raise LookupError("mine")


async def test_a_wait_that_is_cancelled_holds_nothing(autojump_clock: trio.testing.MockClock) -> None:
    lock = MemoryLock()
    async with lock.hold("two", shared=True):
        with trio.move_on_after(1) as scope:
            async with locks_held(lock, ["one", "two"], waiting=lambda what: None):
                pass
        assert scope.cancelled_caught
        async with locks_held(lock, ["one"], waiting=unheard):
            pass
