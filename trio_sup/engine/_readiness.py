"""When an attempt may be called ready: its probe has passed, and the port is proven to be its own (promise P4)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import attrs
import trio

from .. import events
from ..protocol.address import join_address
from ..strategies import Probe, ProbeTarget
from ._event_stream import EventHub
from ._identity import Identity, Verdict
from ._side_tasks import SideTasks
from ._slot import Attempt, Slot
from ._system import System

FIRST_RETRY = 0.005
"""Seconds from a refused first health check to the second one; the wait then doubles up to the interval."""
_ANOTHER_USER = "; if it is the backend, which has become another user, give it identity = 'off'"


@attrs.frozen(kw_only=True)
class ReadinessGate:
    """Lets an attempt through once it is ready, and tells later whether it still is."""

    system: System
    side: SideTasks
    hub: EventHub

    async def passed(self, slot: Slot, attempt: Attempt) -> None:
        """Return when a check has passed. The caller bounds the wait; `attempt.last_health_error` says what it was."""
        assert slot.port is not None
        assert attempt.child is not None
        spec, probe = attempt.spec, attempt.strategies.probe
        wait = spec.readiness.interval
        if probe.needs_listener:
            attempt.awaits_listener = True
            await self.system.wait_for_listener(slot.port)
            attempt.awaits_listener = False
            wait = min(FIRST_RETRY, wait)
        while True:
            attempt.last_health_error = await self.check(slot, attempt, probe, spec.readiness.call_timeout)
            if attempt.last_health_error is None:
                break
            await trio.sleep(wait)
            wait = min(wait * 2, spec.readiness.interval)
        attempt.speaks_grpc = probe.speaks_grpc
        if attempt.cause is not None or attempt.child.has_ended():
            # It was asked to end, or has, while the check went on: its end is about to arrive here. Never READY.
            await trio.sleep_forever()

    async def check(self, slot: Slot, attempt: Attempt, probe: Probe, call_timeout: float) -> str | None:
        """One health check with the proof of identity: None if both passed, else the reason."""
        target = self._target(slot, attempt, call_timeout)
        check: Callable[[], Awaitable[object]] = partial(probe.check, target)
        result = await self.side.run(f"probe of {slot.key}", check, budget=call_timeout)
        if result.timed_out:
            return f"no answer within {call_timeout:g} s"
        if not result.finished or result.error is not None:
            return str(result.error) or repr(result.error)
        if result.value is False:
            return "the probe returned False"
        if attempt.spec.identity == "off":
            return None
        assert attempt.child is not None
        identity = self.system.identify(attempt.child, target.port, target.channel)
        if identity is None or (not probe.needs_listener and not identity.listens):
            return None
        complaint = self._judge(slot, attempt, identity)
        if complaint is None and identity.listens:
            attempt.seen_listening = True
        return complaint

    def _target(self, slot: Slot, attempt: Attempt, call_timeout: float) -> ProbeTarget:
        spec = attempt.spec
        assert slot.port is not None
        assert attempt.child is not None
        assert attempt.channel is not None
        return ProbeTarget(
            key=slot.key,
            spec=spec,
            pid=attempt.child.pid,
            host=spec.host,
            port=slot.port,
            address=join_address(spec.host, slot.port),
            channel=attempt.channel,
            environment=attempt.child.environment,
            call_timeout=call_timeout,
        )

    def _judge(self, slot: Slot, attempt: Attempt, identity: Identity) -> str | None:
        if identity.verdict is Verdict.OURS:
            return None
        if identity.verdict is Verdict.STRANGER:
            return f"port {slot.port} is answered by something that is not part of this backend: {identity.why}"
        if attempt.spec.identity == "strict" or identity.uid_matches is False:
            hint = _ANOTHER_USER if attempt.spec.identity == "auto" else ""
            return f"cannot tell who owns port {slot.port}: {identity.why}{hint}"
        if attempt.ready_at is None:
            self.hub.publish(events.IdentityUncertain(key=slot.key, generation=attempt.generation, why=identity.why))
        elif attempt.seen_listening and not identity.listens:
            return identity.why  # not hidden from us, but closed
        return None
