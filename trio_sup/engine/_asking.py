"""Asking a backend to end: the stop policy asks on a budget, and the built-in one takes over from one that fails."""

from __future__ import annotations

from functools import partial

import attrs

from .. import events
from ..defaults._stop_policies import Terminate
from ..strategies import StopPolicy
from ._event_stream import EventHub
from ._first_of import first_of
from ._plugin_calls import NoBudget, PluginCalls
from ._side_tasks import SideTasks
from ._slot import Attempt, Slot
from ._stop_target import Target


@attrs.frozen(kw_only=True)
class Asking:
    """Lets stop policies ask."""

    side: SideTasks
    hub: EventHub
    calls: PluginCalls

    async def ask(self, slot: Slot, attempt: Attempt) -> None:
        """Have the process asked to end; return when it has, when the stop is forced, or when asking is over."""
        failure = await self._run(slot, attempt, attempt.strategies.stop_policy)
        if failure is None or attempt.exited.is_set() or attempt.forced.is_set():
            return
        self._failed(attempt, failure, "the built-in 'terminate' takes over")
        await self._run(slot, attempt, Terminate())

    async def _run(self, slot: Slot, attempt: Attempt, policy: StopPolicy) -> str | None:
        try:
            budget = self.calls.budget_of(attempt.strategies.stop_policy_name, policy, attempt.spec)
        except NoBudget as why:
            return str(why)
        result = await self.side.run(
            f"stop policy of {attempt.key}",
            partial(policy.stop, Target(attempt.key, attempt.spec, attempt, slot)),
            budget=budget,
            cancel_when=partial(first_of, attempt.exited.wait, attempt.forced.wait),
        )
        if result.error is not None:
            return f"its stop() raised {result.error!r}"
        if result.timed_out:
            self._failed(attempt, f"its stop() took longer than its budget of {budget:g} s", "the process is killed")
        return None

    def _failed(self, attempt: Attempt, what: str, instead: str) -> None:
        plugin = f"stop policy {attempt.strategies.stop_policy_name!r}"
        self.hub.publish(events.PluginFailed(plugin=plugin, what=what, instead=instead, key=attempt.key))
