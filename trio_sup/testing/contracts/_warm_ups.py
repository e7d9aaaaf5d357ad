"""The contract of warm-ups."""

from __future__ import annotations

import math
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest
import trio

from ..._values import BackendSpec, ProcessKey, Readiness
from ...bridge import open_channel
from ...engine import open_supervisor
from ...errors import CallFailed
from ...strategies import Launch, WarmUp, WarmUpTarget
from .._cancellation import cancel_at_every_step
from .._fakes import FakeBackend, FakeChild, FakeSystem
from .._fast import run_fast
from .._scripted import scripted_backend
from ._common import SYNCHRONOUS_LIMIT, StrategyContract, if_promised, leaving_nothing, longest_step, run_real

_TOKEN = "contract-t0ken"
_OBEY = 0.05
"""Seconds that a warm-up gets to end after it was cancelled. Source: the engine's own bound."""
_LONGEST_REASON = 2000
"""Characters; the reason is shown to people."""
_REFUSAL = CallFailed("/backend.Backend/Any", "INTERNAL", "file not found")


def _target(spec: BackendSpec, pid: int, port: int, channel: Any) -> WarmUpTarget:
    return WarmUpTarget(key=ProcessKey("contract"), spec=spec, pid=pid, address=f"127.0.0.1:{port}", channel=channel)


def _fake_target(behaviour: FakeBackend) -> tuple[WarmUpTarget, FakeChild]:
    """An imagined backend, and what was asked of it."""
    system, spec = FakeSystem(behaviour), BackendSpec(name="contract", command=["sh"], token=_TOKEN)
    port = 20000
    launch = Launch(
        key=ProcessKey("contract"), spec=spec, executable="sh", arguments=["sh"], environment={}, cwd=None, port=port
    )
    child = system.launch(launch, 1)
    return _target(spec, child.pid, port, system.channel("127.0.0.1", port, _TOKEN)), child


@asynccontextmanager
async def _real_target(options: Mapping[str, Any]) -> AsyncIterator[WarmUpTarget]:
    """A scripted backend that listens."""
    spec = scripted_backend(name="contract", token=_TOKEN, readiness=Readiness(probe="tcp"), grace=0.2, **options)
    async with open_supervisor(install_lock="memory", ports="ephemeral", stop_policy="kill") as sup:
        backend = await sup.start(spec)
        assert backend.pid is not None
        assert backend.port is not None
        async with open_channel(f"127.0.0.1:{backend.port}", token=_TOKEN) as channel:
            yield _target(spec, backend.pid, backend.port, channel)


@asynccontextmanager
async def _mute_target(*, listens: bool) -> AsyncIterator[WarmUpTarget]:
    """Nobody answers there, or nobody is there at all."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        port = listener.getsockname()[1]
        if not listens:
            listener.close()
        async with open_channel(f"127.0.0.1:{port}", token=_TOKEN) as channel:
            yield _target(BackendSpec(name="contract", command=["sh"], token=_TOKEN), 1, port, channel)


async def _failure_of(warm_up: WarmUp, target: WarmUpTarget, limit: float = math.inf) -> Exception | None:
    """What the warm-up raises, bounded as the engine bounds it."""
    warm: Callable[[WarmUpTarget], Awaitable[object]] = warm_up.warm_up
    with trio.move_on_after(min(limit, warm_up.budget(target.spec))) as budget_scope:
        try:
            returned = await warm(target)
        except Exception as error:
            return error
        assert returned is None, f"warm_up() returned {returned!r}: it must return nothing, and raise if it fails"
    return TimeoutError("it took longer than its budget") if budget_scope.cancelled_caught else None


def _check_reason(failure: Exception | None) -> None:
    assert failure is not None, "it takes for warm what is not"
    assert 0 < len(str(failure)) < _LONGEST_REASON, "the reason is shown to people"
    assert _TOKEN not in str(failure), "the reason is shown, and the token must never be"


class WarmUpContract(StrategyContract):
    """Every warm-up must pass these.

    Attributes:
        good: Options of `scripted_backend` with which it succeeds.
        bad: Options with which a backend can be called, but the warm-up fails.
        calls: It calls the backend through the channel of its target, which is all that it waits for; and so it fails
            if the calls do.
    """

    kind = "warm-up"
    good: ClassVar[Sequence[Mapping[str, Any]]] = ({},)
    bad: ClassVar[Sequence[Mapping[str, Any]]] = ()
    calls: ClassVar[bool] = True

    def make(self) -> WarmUp:
        """Make the strategy under test: a new one at each call."""
        raise NotImplementedError(f"{type(self).__qualname__} must define make()")

    @pytest.mark.parametrize("grace", [0.0, 15.0, 1000.0])
    def test_its_budget_is_finite(self, grace: float) -> None:
        budget = self.make().budget(BackendSpec(name="contract", command=["sh"], grace=grace))
        assert isinstance(budget, (int, float))
        assert 0 <= budget < math.inf

    # ---- against an imagined backend

    @pytest.mark.parametrize("takes", [0.0, 0.3])
    @if_promised("calls")
    def test_it_calls_the_backend_and_succeeds_when_the_calls_do(self, takes: float) -> None:
        async def play() -> None:
            target, child = _fake_target(FakeBackend(warm_up_takes=takes))
            await self.make().warm_up(target)
            assert child.calls or child.freed_at

        run_fast(play)

    @if_promised("calls")
    def test_when_the_calls_fail_it_fails_with_their_reason(self) -> None:
        async def play() -> None:
            target, _ = _fake_target(FakeBackend(warm_up_error=_REFUSAL))
            failure = await _failure_of(self.make(), target)
            _check_reason(failure)
            assert "INTERNAL" in str(failure)
            assert "file not found" in str(failure)

        run_fast(play)

    @if_promised("calls")
    def test_when_nobody_answers_it_ends_within_its_budget_and_says_so_itself(self) -> None:
        async def play() -> None:
            target, _ = _fake_target(FakeBackend(warm_up_takes=math.inf))
            warm_up = self.make()
            with trio.fail_after(warm_up.budget(target.spec)):
                try:
                    await warm_up.warm_up(target)
                except trio.TooSlowError:
                    raise
                except Exception as error:
                    _check_reason(error)
                    return
            raise AssertionError("it takes for warm what has not answered")

        run_fast(play)

    @if_promised("calls")
    def test_cancelled_it_ends_at_once(self) -> None:
        async def play() -> None:
            target, _ = _fake_target(FakeBackend(warm_up_takes=math.inf))
            warm_up = self.make()
            patience = warm_up.budget(target.spec) / 2
            with trio.move_on_after(patience):
                await _failure_of(warm_up, target)
            assert trio.current_time() <= patience + _OBEY, "it must not shield, nor swallow a cancellation"

        run_fast(play)

    @pytest.mark.parametrize("error", [None, _REFUSAL], ids=["succeeds", "fails"])
    @if_promised("calls")
    def test_cancelled_at_any_step_it_leaves_no_task(self, error: Exception | None) -> None:
        async def play() -> None:
            async def warm_up() -> None:
                await _failure_of(self.make(), _fake_target(FakeBackend(warm_up_takes=0.3, warm_up_error=error))[0])

            async def nothing_runs() -> None:
                await trio.lowlevel.checkpoint()
                assert trio.lowlevel.current_statistics().tasks_living == before

            before = trio.lowlevel.current_statistics().tasks_living
            assert await cancel_at_every_step(warm_up, nothing_runs) > 0

        run_fast(play)

    # ---- against real processes

    @pytest.mark.parametrize("times", [1, 3])
    def test_it_succeeds_for_a_good_backend_each_time(self, times: int) -> None:
        async def play() -> None:
            warm_up = self.make()
            for options in self.good:
                async with _real_target(options) as target:
                    for _ in range(times):
                        assert await _failure_of(warm_up, target, limit=20.0) is None

        with leaving_nothing(self.directory):
            run_real(play)

    def test_it_blocks_nobody(self) -> None:
        async def play() -> None:
            async with _real_target(self.good[0]) as target:
                took = [await longest_step(_failure_of, self.make(), target, 20.0) for _ in range(5)]
            assert min(took) < SYNCHRONOUS_LIMIT, f"at best {min(took):.3f} s in one step: everything else waits for it"

        run_real(play)

    def test_it_warms_up_several_at_the_same_time(self) -> None:
        async def play() -> None:
            warm_up, failures = self.make(), []

            async def try_it(target: WarmUpTarget) -> None:
                failures.append(await _failure_of(warm_up, target, limit=20.0))

            async with (
                _real_target(self.good[0]) as one,
                _real_target(self.good[0]) as other,
                trio.open_nursery() as nursery,
            ):
                for target in (one, other, one):
                    nursery.start_soon(try_it, target)
            assert failures == [None] * 3

        with leaving_nothing(self.directory):
            run_real(play)

    def test_it_fails_with_a_reason_for_a_bad_backend(self) -> None:
        async def play() -> None:
            for options in self.bad:
                async with _real_target(options) as target:
                    _check_reason(await _failure_of(self.make(), target, limit=2.0))

        with leaving_nothing(self.directory):
            run_real(play)

    @pytest.mark.parametrize("listens", [False, True], ids=["nobody is there", "nobody answers"])
    @if_promised("calls")
    def test_it_fails_with_a_reason_if_nobody_answers(self, listens: bool) -> None:
        async def play() -> None:
            async with _mute_target(listens=listens) as target:
                _check_reason(await _failure_of(self.make(), target, limit=2.0))

        with leaving_nothing(self.directory):
            run_real(play)

    @if_promised("calls")
    def test_it_fails_with_a_reason_if_the_answer_is_garbage(self) -> None:
        async def play() -> None:
            async with _real_target({"garbage": True}) as target:
                _check_reason(await _failure_of(self.make(), target, limit=2.0))

        with leaving_nothing(self.directory):
            run_real(play)

    @pytest.mark.parametrize("after", [0.0, 0.001, 0.02, 0.1])
    @pytest.mark.parametrize("answers", [True, False])
    def test_cancelled_it_leaves_nothing(self, answers: bool, after: float) -> None:
        async def cancel(target: WarmUpTarget) -> None:
            began = trio.current_time()
            with trio.move_on_after(after):
                await _failure_of(self.make(), target)
            assert trio.current_time() - began < after + 2.0

        async def play() -> None:
            target = _real_target(self.good[0]) if answers else _mute_target(listens=True)
            async with target as given:
                await cancel(given)

        with leaving_nothing(self.directory):
            run_real(play)

    def test_cancelled_again_and_again_it_still_works(self) -> None:
        async def play() -> None:
            warm_up, dice = self.make(), random.Random(1)
            async with _real_target(self.good[0]) as target:
                for _ in range(10):
                    with trio.move_on_after(dice.random() * 0.02):
                        await _failure_of(warm_up, target)
                assert await _failure_of(warm_up, target, limit=20.0) is None

        with leaving_nothing(self.directory):
            run_real(play)
