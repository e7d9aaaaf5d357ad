"""The contract of stop policies."""

from __future__ import annotations

import math
import os
import signal
from typing import Any, ClassVar

import attrs
import pytest
import trio

from ..._values import BackendSpec, ProcessKey, Readiness
from ...engine import open_supervisor
from ...errors import CallFailed
from ...guard import _proc
from ...strategies import StopPolicy
from .._cancellation import cancel_at_every_step
from .._fakes import FakeBackend, FakeSystem
from .._fast import run_fast
from .._scripted import scripted_backend
from ._common import SYNCHRONOUS_LIMIT, StrategyContract, leaving_nothing, longest_step, run_real

_OBEY = 0.05
"""Seconds that a policy gets to end after it was cancelled. Source: the engine's own bound."""

_FREES: dict[str, float | Exception] = {
    "free answers": 0.0,
    "free is slow": 3.0,
    "free hangs": math.inf,
    "free fails": CallFailed("/backend.Backend/Free", "UNIMPLEMENTED", "no"),
    "free raises a bug": AttributeError("a bug in a library"),
}
_LEASED = {"unleased": 0.0, "leased for a while": 1.5, "leased for ever": math.inf}
_EXITS = {"ends at once": 0.0, "ends late": 0.7, "never ends": math.inf}
_VICES: dict[str, dict[str, Any]] = {
    "none": {},
    "ignores SIGTERM": {"ignore_sigterm": True},
    "free hangs": {"free_hangs": True},
    "free fails": {"free_fails": True},
    "stops slowly": {"slow_stop": 5.0},
    "leaves children": {"fork": ["plain", "group", "setsid"]},
    "health hangs": {"hang_health": True, "readiness": Readiness(probe="tcp")},
    "floods stderr": {"flood": 1_000_000},
}


@attrs.define(eq=False)
class ScriptedTarget:
    """An attempt that keeps to a timetable, and writes down what was asked of it after its end.

    Attributes:
        free_does: How long Free takes, or what it raises.
        exits_after: From a signal until it ends.
        leased_until: The instant at which the last lease on it ends.
    """

    grace: float = 15.0
    free_does: float | Exception = 0.0
    exits_after: float = math.inf
    leased_until: float = 0.0
    key: ProcessKey = attrs.field(factory=lambda: ProcessKey("contract"))
    pid: int = 1
    signals: list[signal.Signals] = attrs.field(factory=list)
    signals_after_its_end: int = 0
    _changed: trio.Event = attrs.field(factory=trio.Event)
    _exit_at: float = math.inf

    @property
    def spec(self) -> BackendSpec:
        return BackendSpec(name="contract", command=["sh"], grace=self.grace)

    async def free(self) -> None:
        await trio.lowlevel.checkpoint()
        if isinstance(self.free_does, Exception):
            raise self.free_does
        await trio.sleep(self.free_does)

    def signal(self, number: signal.Signals | None = None) -> None:
        self.signals.append(number or self.spec.stop_signal)
        self.signals_after_its_end += trio.current_time() >= self._exit_at
        self._end_at(trio.current_time() + self.exits_after)

    async def exited(self) -> None:
        while trio.current_time() < self._exit_at:
            with trio.CancelScope(deadline=self._exit_at):
                await self._changed.wait()
        await trio.lowlevel.checkpoint()

    async def unleased(self) -> None:
        await trio.sleep_until(self.leased_until)

    def exit(self) -> None:
        """End by itself, now."""
        self._end_at(trio.current_time())

    def _end_at(self, instant: float) -> None:
        self._exit_at = min(self._exit_at, instant)
        self._changed.set()
        self._changed = trio.Event()


async def _ask(policy: StopPolicy, target: ScriptedTarget) -> float:
    """Ask as the engine does, which cancels the policy when the process has ended; tell how long it took."""
    began = trio.current_time()
    with trio.move_on_after(policy.budget(target.spec) + 60):
        async with trio.open_nursery() as nursery:

            async def end_with_the_process() -> None:
                await target.exited()
                nursery.cancel_scope.cancel()

            nursery.start_soon(end_with_the_process)
            await policy.stop(target)
            nursery.cancel_scope.cancel()
    return trio.current_time() - began


def _is_gone(pid: int) -> bool:
    process = _proc.read_process(pid)
    return process is None or not process.alive or process.ppid != os.getpid()


class StopPolicyContract(StrategyContract):
    """Every stop policy must pass these.

    Attributes:
        real_limit: Seconds that a test with a real process may take; longer than the budget for a grace of 0.3 s.
    """

    kind = "stop policy"
    real_limit: ClassVar[float] = 30.0

    def make(self) -> StopPolicy:
        """Make the strategy under test: a new one at each call."""
        raise NotImplementedError(f"{type(self).__qualname__} must define make()")

    @pytest.mark.parametrize("grace", [0.0, 0.001, 15.0, 1000.0])
    def test_its_budget_is_finite_and_covers_the_grace_it_waits(self, grace: float) -> None:
        budget = self.make().budget(BackendSpec(name="contract", command=["sh"], grace=grace))
        assert isinstance(budget, (int, float))
        assert 0 <= budget < math.inf

    @pytest.mark.parametrize("free", _FREES)
    @pytest.mark.parametrize("exits", _EXITS)
    @pytest.mark.parametrize("grace", [0.0, 1.0, 1000.0])
    @pytest.mark.parametrize("leased", _LEASED)
    def test_it_keeps_to_its_budget(self, free: str, exits: str, grace: float, leased: str) -> None:
        async def play() -> None:
            policy = self.make()
            target = ScriptedTarget(grace, _FREES[free], _EXITS[exits], _LEASED[leased])
            assert await _ask(policy, target) <= policy.budget(target.spec)

        run_fast(play)

    @pytest.mark.parametrize("exits", _EXITS)
    def test_it_blocks_nobody(self, exits: str) -> None:
        async def play() -> float:
            return await longest_step(_ask, self.make(), ScriptedTarget(2.0, exits_after=_EXITS[exits]))

        took = [run_fast(play) for _ in range(5)]
        assert min(took) < SYNCHRONOUS_LIMIT, f"at best {min(took):.3f} s in one step: everything else waits for it"

    @pytest.mark.parametrize("free", _FREES)
    @pytest.mark.parametrize("exits", _EXITS)
    def test_it_signals_nobody_after_the_end(self, free: str, exits: str) -> None:
        async def play() -> None:
            target = ScriptedTarget(2.0, _FREES[free], _EXITS[exits])
            await _ask(self.make(), target)
            assert not target.signals_after_its_end

        run_fast(play)

    @pytest.mark.parametrize("free", _FREES)
    @pytest.mark.parametrize("leased", _LEASED)
    def test_a_process_that_ends_by_itself_meanwhile_is_left_alone(self, free: str, leased: str) -> None:
        async def play() -> None:
            target = ScriptedTarget(5.0, _FREES[free], math.inf, _LEASED[leased])

            async def end() -> None:
                await trio.sleep(0.05)
                target.exit()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(end)
                assert await _ask(self.make(), target) <= 0.05 + _OBEY
            assert not target.signals_after_its_end

        run_fast(play)

    @pytest.mark.parametrize("free", _FREES)
    @pytest.mark.parametrize("exits", _EXITS)
    @pytest.mark.parametrize("leased", _LEASED)
    def test_cancelled_it_ends_at_once(self, free: str, exits: str, leased: str) -> None:
        async def play() -> None:
            with trio.move_on_after(0.5):
                await self.make().stop(ScriptedTarget(1000.0, _FREES[free], _EXITS[exits], _LEASED[leased]))
            assert trio.current_time() <= 0.5 + _OBEY, "it must not shield, nor swallow a cancellation"

        run_fast(play)

    @pytest.mark.parametrize("free", _FREES)
    @pytest.mark.parametrize("leased_for", [0.0, 0.3])
    def test_cancelled_at_any_step_it_leaves_no_task(self, free: str, leased_for: float) -> None:
        async def play() -> None:
            async def stop() -> None:
                await self.make().stop(ScriptedTarget(1.0, _FREES[free], 0.3, trio.current_time() + leased_for))

            async def nothing_runs() -> None:
                await trio.lowlevel.checkpoint()
                assert trio.lowlevel.current_statistics().tasks_living == before

            before = trio.lowlevel.current_statistics().tasks_living
            assert await cancel_at_every_step(stop, nothing_runs) > 0, "it never waits: await a checkpoint at least"

        run_fast(play)

    @pytest.mark.parametrize(
        "backend",
        [
            FakeBackend(),
            FakeBackend(stops_after=1.0),
            FakeBackend(stops_after=math.inf),
            FakeBackend(free_takes=math.inf),
            FakeBackend(free_takes=math.inf, stops_after=math.inf),
            FakeBackend(exits_after=1.0, stops_after=math.inf, free_takes=math.inf),
        ],
        ids=["well-behaved", "slow", "deaf", "free hangs", "deaf and free hangs", "ends by itself"],
    )
    @pytest.mark.parametrize("how", ["stop", "force", "close"])
    def test_in_a_supervisor_the_end_is_proven(self, backend: FakeBackend, how: str) -> None:
        async def play() -> None:
            system, policy = FakeSystem(backend), self.make()
            spec = BackendSpec(name="contract", command=["sh"], grace=2.0, stop_policy=policy)
            async with open_supervisor(system=system, install_lock="memory") as sup:
                await sup.start(spec)
                began = trio.current_time()
                if how != "close":
                    (report,) = await sup.stop("contract", force=how == "force")
                    assert report.gone
                    assert trio.current_time() - began <= (1.0 if how == "force" else policy.budget(spec) + 1.0)
                    assert not sup.is_running("contract")
            assert system.running() == []
            assert not system.held

        run_fast(play)

    @pytest.mark.parametrize("vice", _VICES)
    def test_a_real_process_is_gone_afterwards(self, vice: str) -> None:
        async def play() -> None:
            spec = scripted_backend(**_VICES[vice], grace=0.3, stop_policy=self.make())
            async with open_supervisor(install_lock="memory", ports="ephemeral") as sup:
                backend = await sup.start(spec)
                (report,) = await sup.stop(spec.name)
                assert report.gone
                assert backend.pid is not None
                assert _is_gone(backend.pid)

        with leaving_nothing(self.directory):
            run_real(play, limit=self.real_limit)
