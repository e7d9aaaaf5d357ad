"""What is done with a started backend before it is READY: the warm-ups of its specification, one after the other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import attrs
import trio

from ..errors import WarmUpFailed
from ..protocol.address import join_address
from ..strategies import WarmUp, WarmUpTarget
from ._plugin_calls import NoBudget, PluginCalls
from ._side_tasks import SideTasks
from ._slot import Attempt, Slot

DYING_TIME = 0.2
"""Seconds from the loss of a connection until it is known that the process at its other end has ended."""


@attrs.frozen(kw_only=True)
class WarmingUp:
    """Runs warm-ups, each in a side task on its own budget."""

    side: SideTasks
    calls: PluginCalls

    async def run(self, slot: Slot, attempt: Attempt) -> None:
        """Warm *attempt* up.

        Raises:
            WarmUpFailed: One of them failed, or took longer than its budget.
        """
        if not attempt.strategies.warm_ups:
            return
        assert slot.port is not None
        assert attempt.child is not None
        assert attempt.channel is not None
        target = WarmUpTarget(
            key=slot.key,
            spec=attempt.spec,
            pid=attempt.child.pid,
            address=join_address(attempt.spec.host, slot.port),
            channel=attempt.channel,
        )
        for name, warm_up in attempt.strategies.warm_ups:
            why = await self._failure(name, warm_up, target)
            if why is not None:
                await self._unless_it_dies(attempt)
                raise WarmUpFailed(slot.key, attempt.generation, why=why)

    @staticmethod
    async def _unless_it_dies(attempt: Attempt) -> None:
        """Return if the process lives on; if its end was what failed, that is what is to be told."""
        with trio.move_on_after(DYING_TIME):
            await attempt.exited.wait()
        if attempt.exited.is_set():
            await trio.sleep_forever()  # its end arrives here as the cancellation of its life

    async def _failure(self, name: str, warm_up: WarmUp, target: WarmUpTarget) -> str | None:
        try:
            budget = self.calls.budget_of(name, warm_up, target.spec)
        except NoBudget as why:
            return f"the warm-up {name!r} failed: {why}"
        warm: Callable[[], Awaitable[object]] = partial(warm_up.warm_up, target)
        result = await self.side.run(f"warm-up of {target.key}", warm, budget=budget)
        if result.timed_out:
            return f"the warm-up {name!r} took longer than its budget of {budget:g} s"
        if result.error is not None:
            return str(result.error) or repr(result.error)
        if result.value is False:
            return f"the warm-up {name!r} returned False"
        return None
