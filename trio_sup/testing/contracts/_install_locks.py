"""The contract of install locks."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ..._values import BackendSpec
from ...engine import open_supervisor
from ...strategies import InstallLock
from .._cancellation import cancel_at_every_step
from .._fakes import FakeSystem
from ._common import StrategyContract, if_promised, leaving_nothing, run_real

_PATIENCE = 0.1
"""Seconds after which one that has not got the lock counts as kept out."""

_PAIRS = pytest.mark.parametrize(
    ("held", "wanted"),
    [("exclusive", "exclusive"), ("exclusive", "shared"), ("shared", "exclusive"), ("shared", "shared")],
)
_WAYS = pytest.mark.parametrize("how", ["exclusive", "shared"])


async def _gets_in(lock: InstallLock, backend: str, how: str) -> bool:
    with trio.move_on_after(_PATIENCE):
        async with lock.hold(backend, shared=how == "shared"):
            return True
    return False


def _check_entry(got_in: bool, held: str, wanted: str) -> None:
    said = f"{wanted} is {'let in' if got_in else 'kept out'} while somebody holds it {held}"
    assert got_in is (held == wanted == "shared"), said


class InstallLockContract(StrategyContract):
    """Every install lock must pass these. Files belong below `directory`, which is empty and new for each test.

    Attributes:
        between_processes: It keeps processes apart as well. Then it must be possible to pickle it.
    """

    kind = "install lock"
    between_processes: ClassVar[bool] = False

    def make(self) -> InstallLock:
        """Make the strategy under test: a new one at each call."""
        raise NotImplementedError(f"{type(self).__qualname__} must define make()")

    @_PAIRS
    def test_who_keeps_whom_out(self, held: str, wanted: str) -> None:
        async def play() -> None:
            lock = self.make()
            async with lock.hold("b", shared=held == "shared"):
                _check_entry(await _gets_in(lock, "b", wanted), held, wanted)

        run_real(play)

    @_PAIRS
    def test_one_that_waits_gets_it_when_the_other_lets_go(self, held: str, wanted: str) -> None:
        async def play() -> None:
            lock, waiting, got = self.make(), trio.Event(), trio.Event()

            async def wait() -> None:
                waiting.set()
                async with lock.hold("b", shared=wanted == "shared"):
                    got.set()

            async with trio.open_nursery() as nursery:
                async with lock.hold("b", shared=held == "shared"):
                    nursery.start_soon(wait)
                    await waiting.wait()
                with trio.fail_after(5):
                    await got.wait()

        run_real(play)

    @_PAIRS
    @pytest.mark.parametrize("other", ["c", "B", "b.lock", "bb", "b-1"])
    def test_different_backends_do_not_wait_for_each_other(self, other: str, held: str, wanted: str) -> None:
        async def play() -> None:
            lock = self.make()
            with trio.fail_after(5):
                async with (
                    lock.hold("b", shared=held == "shared"),
                    lock.hold(other, shared=wanted == "shared"),
                ):
                    pass

        run_real(play)

    @pytest.mark.parametrize(
        "name", ["b", "0", "a.b", "a..b", "A-b_c+d", "a.lock", "x" * 200], ids=lambda name: name[:9]
    )
    @_WAYS
    def test_every_name_of_a_backend_will_do(self, name: str, how: str) -> None:
        async def play() -> None:
            lock = self.make()
            with trio.fail_after(5):
                async with lock.hold(name, shared=how == "shared"):
                    assert not await _gets_in(lock, name, "exclusive")

        run_real(play)

    @_PAIRS
    def test_a_wait_that_is_cancelled_leaves_nothing(self, held: str, wanted: str) -> None:
        async def play() -> None:
            lock = self.make()
            async with lock.hold("b", shared=held == "shared"):
                for _ in range(3):
                    await _gets_in(lock, "b", wanted)
            assert await _gets_in(lock, "b", "exclusive")

        with leaving_nothing(self.directory):
            run_real(play)

    @_WAYS
    def test_cancelled_at_any_step_it_is_free_afterwards(self, how: str) -> None:
        async def play() -> None:
            lock = self.make()

            async def hold() -> None:
                async with lock.hold("b", shared=how == "shared"):
                    await trio.lowlevel.checkpoint()

            async def is_free() -> None:
                with trio.fail_after(5):
                    async with lock.hold("b", shared=False):
                        pass

            assert await cancel_at_every_step(hold, is_free) > 0

        with leaving_nothing(self.directory):
            run_real(play)

    @_WAYS
    def test_cancelled_at_any_step_of_waiting_it_is_free_afterwards(self, how: str) -> None:
        async def play() -> None:
            lock = self.make()

            async def wait() -> None:
                async with lock.hold("b", shared=how == "shared"):
                    await trio.lowlevel.checkpoint()

            async def contend() -> None:
                async with trio.open_nursery() as nursery, lock.hold("b", shared=False):
                    nursery.start_soon(wait)
                    await trio.lowlevel.checkpoint()
                    await trio.lowlevel.checkpoint()

            async def is_free() -> None:
                with trio.fail_after(5):
                    async with lock.hold("b", shared=False):
                        pass

            assert await cancel_at_every_step(contend, is_free) > 0

        with leaving_nothing(self.directory):
            run_real(play)

    @_WAYS
    @pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt])
    def test_an_exception_of_its_holder_frees_it_and_travels_on(self, error: type[BaseException], how: str) -> None:
        async def play() -> None:
            lock = self.make()
            with pytest.raises(error, match="mine"):
                async with lock.hold("b", shared=how == "shared"):
                    raise error("mine")
            assert await _gets_in(lock, "b", "exclusive")

        with leaving_nothing(self.directory):
            run_real(play)

    def test_many_share_it_at_once(self) -> None:
        async def play() -> None:
            lock, inside, over = self.make(), 0, trio.Event()

            async def share() -> None:
                nonlocal inside
                async with lock.hold("b", shared=True):
                    inside += 1
                    if inside == 20:
                        over.set()
                    await over.wait()

            with trio.fail_after(10):
                async with trio.open_nursery() as nursery:
                    for _ in range(20):
                        nursery.start_soon(share)

        with leaving_nothing(self.directory):
            run_real(play)

    def test_it_can_be_held_again_and_again(self) -> None:
        async def play() -> None:
            lock = self.make()
            for turn in range(100):
                with trio.fail_after(5):
                    async with lock.hold("b", shared=turn % 2 == 0):
                        pass

        with leaving_nothing(self.directory):
            run_real(play)

    @pytest.mark.parametrize("seed", range(5))
    def test_in_random_company_nobody_is_in_who_must_not_be(self, seed: int) -> None:
        async def play() -> None:
            lock, dice = self.make(), random.Random(seed)
            inside: list[bool] = []

            async def contend(turns: list[tuple[bool, int, float]]) -> None:
                for shared, steps, patience in turns:
                    with trio.move_on_after(patience) as wait_scope:
                        async with lock.hold("b", shared=shared):
                            wait_scope.deadline = float("inf")
                            inside.append(shared)
                            assert all(inside) or len(inside) == 1, "one is in who must be alone"
                            for _ in range(steps):
                                await trio.lowlevel.checkpoint()
                            inside.remove(shared)

            async with trio.open_nursery() as nursery:
                for _ in range(6):
                    turns = [(dice.random() < 0.6, dice.randrange(4), dice.choice([0.0, 0.02, 9.0])) for _ in range(6)]
                    nursery.start_soon(contend, turns)
            assert not inside
            assert await _gets_in(lock, "b", "exclusive")

        with leaving_nothing(self.directory):
            run_real(play)

    def test_a_supervisor_starts_backends_under_it(self) -> None:
        async def play() -> None:
            lock = self.make()
            async with open_supervisor(system=FakeSystem(), install_lock=lock, stop_policy="kill") as sup:
                spec = BackendSpec(name="b", command=["sh"])
                async with lock.hold("b", shared=False), trio.open_nursery() as nursery:
                    nursery.start_soon(sup.start, spec)
                    await wait_all_tasks_blocked()
                    assert not sup.is_running("b")
                    nursery.cancel_scope.cancel()
                await sup.stop_all()
                for replica in range(3):
                    await sup.start(spec, replica=replica)

        with leaving_nothing(self.directory):
            run_real(play)

    # ---- between processes

    @asynccontextmanager
    async def _another_process(self, lock: InstallLock, how: str) -> AsyncIterator[trio.Process]:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "trio_sup.testing._lock_holder", how, "b"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # What the test could import, so that the lock's class is found there too.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with process.stdin, process.stdout:
                await process.stdin.send_all(pickle.dumps(lock).hex().encode() + b"\n")
                assert (await process.stdout.receive_some()).startswith(b"held"), "it could not take the lock"
                yield process
            await process.wait()
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()

    @_PAIRS
    @if_promised("between_processes")
    def test_another_process_is_kept_out_likewise(self, held: str, wanted: str) -> None:

        async def play() -> None:
            lock = self.make()
            async with self._another_process(lock, held):
                _check_entry(await _gets_in(lock, "b", wanted), held, wanted)
            assert await _gets_in(lock, "b", "exclusive")

        with leaving_nothing(self.directory):
            run_real(play)

    @_WAYS
    @if_promised("between_processes")
    def test_a_holder_that_is_killed_frees_it(self, how: str) -> None:

        async def play() -> None:
            lock = self.make()
            async with self._another_process(lock, how) as holder:
                assert not await _gets_in(lock, "b", "exclusive")
                holder.kill()
                with trio.fail_after(10):
                    async with lock.hold("b", shared=False):
                        pass

        with leaving_nothing(self.directory):
            run_real(play)
