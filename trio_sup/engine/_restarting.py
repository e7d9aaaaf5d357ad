"""What follows an attempt that ended although nobody had asked for it: the restart policy is asked and checked."""

from __future__ import annotations

import random

import attrs
import trio

from .. import events
from .._restarts import checked
from ..defaults._restart_policies import OnFailure
from ..strategies import AttemptEnd, GiveUp, RestartAfter, RestartPolicy
from ._event_stream import EventHub
from ._outcome import ended_well
from ._plugin_calls import PluginCalls
from ._slot import Attempt, Slot

SHORTEST_CYCLE = 0.1
"""Seconds from one launch to the next at the least, whatever a policy says: nothing loops without a wait."""

Decision = RestartAfter | GiveUp | None


@attrs.frozen(kw_only=True)
class Restarting:
    """Asks restart policies; the built-in 'on-failure' takes over from one that fails."""

    hub: EventHub
    calls: PluginCalls
    rng: random.Random

    def decide(self, slot: Slot, attempt: Attempt) -> Decision:
        """Note the unasked end of *attempt*, and decide what follows it."""
        now = trio.current_time()
        slot.ends.append(
            AttemptEnd(
                ended_at=now,
                ready_for=attempt.rotation_seconds if attempt.ready_at is not None else None,
                success=ended_well(attempt),
                report=attempt.report,
            )
        )
        ends = tuple(slot.ends)
        strategies = attempt.strategies
        try:
            decision = self.calls.call(
                strategies.restart_policy_name,
                "decide()",
                lambda: checked(strategies.restart_policy.decide(ends, self.rng)),
            )
        except Exception as error:
            self.hub.publish(
                events.PluginFailed(
                    plugin=f"restart policy {strategies.restart_policy_name!r}",
                    what=f"its decide() failed with {error!r}",
                    instead="the built-in 'on-failure' takes over",
                    key=slot.key,
                )
            )
            fallback: RestartPolicy = OnFailure()
            decision = fallback.decide(ends, self.rng)
        if isinstance(decision, RestartAfter):
            began_at = attempt.launched_at if attempt.launched_at is not None else attempt.created_at
            return RestartAfter(max(decision.delay, began_at + SHORTEST_CYCLE - now))
        return decision
