"""What is looked at once a backend is ready: does it still take calls, and does it still make headway?"""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs
import trio

from .._phases import Cause
from .._values import Liveness, Readiness
from ..strategies import Probe
from ._progress_watch import WorkWatch
from ._readiness import ReadinessGate
from ._slot import Attempt, Slot


@attrs.define
class Rotation:
    """Counts checks in a row, and says when enough of them have passed or failed to change what is believed."""

    failure_threshold: int
    success_threshold: int
    good: bool = True
    _against: int = 0

    def changes_with(self, passed: bool) -> bool:
        """Take in the outcome of one check; tell whether `good` has changed with it."""
        self._against = 0 if passed == self.good else self._against + 1
        if self._against < (self.failure_threshold if self.good else self.success_threshold):
            return False
        self.good, self._against = not self.good, 0
        return True


@attrs.frozen(kw_only=True)
class HealthWatch:
    """Checks ready backends, each by itself.

    Args:
        out_of_rotation: Told the slot and the reason when it no longer takes calls.
        back_in_rotation: Told the slot when it does again.
    """

    gate: ReadinessGate
    out_of_rotation: Callable[[Slot, str], None]
    back_in_rotation: Callable[[Slot], None]

    @trio.lowlevel.enable_ki_protection
    async def run(self, slot: Slot, attempt: Attempt) -> None:
        """Check *attempt* from now on; ends it if it loses liveness, and returns only then or if nothing is checked."""
        watched = _Watched(self, slot, attempt)
        while math.isfinite(due := watched.next_due()):
            await trio.sleep_until(due)
            await watched.check_what_is_due()
            if attempt.cause is not None:
                return


class _Watched:
    """The checks of one ready attempt: when each is due, and what they have said so far."""

    def __init__(self, watch: HealthWatch, slot: Slot, attempt: Attempt) -> None:
        self._watch, self._slot, self._attempt = watch, slot, attempt
        self._readiness: Readiness = attempt.spec.readiness
        self._liveness: Liveness | None = attempt.spec.liveness
        now = trio.current_time()
        self._ready_due = now + self._readiness.period if self._readiness.period else math.inf
        self._live_due = now + self._liveness.period if self._liveness else math.inf
        self._last_passed_at = now
        self._rotation = Rotation(self._readiness.failure_threshold, self._readiness.success_threshold)
        self._failures = 0
        self._work = WorkWatch(attempt)

    def next_due(self) -> float:
        return min(self._ready_due, self._live_due)

    async def check_what_is_due(self) -> None:
        now = trio.current_time()
        ready_is_due, live_is_due = now >= self._ready_due, now >= self._live_due
        error: str | None = None
        if ready_is_due:
            error = await self._check(self._attempt.strategies.probe, self._readiness.call_timeout)
            self._note_readiness(error)
            self._ready_due = max(now + self._readiness.period, trio.current_time())
        if live_is_due:
            assert self._liveness is not None
            assert self._attempt.strategies.liveness_probe is not None
            if not (ready_is_due and self._is_one_check(self._liveness)):
                error = await self._check(self._attempt.strategies.liveness_probe, self._liveness.call_timeout)
            await self._note_liveness(error, self._liveness)
            self._live_due = max(now + self._liveness.period, trio.current_time())

    def _is_one_check(self, liveness: Liveness) -> bool:
        """Whether both ask the same, so that one call answers both."""
        ready = self._readiness
        return (liveness.probe, liveness.call_timeout) == (ready.probe, ready.call_timeout)

    async def _check(self, probe: Probe, call_timeout: float) -> str | None:
        error = await self._watch.gate.check(self._slot, self._attempt, probe, call_timeout)
        assert self._attempt.child is not None
        if self._attempt.cause is not None or self._attempt.child.has_ended():
            # It was asked to end, or has, while the check went on: its end is about to arrive here, and says it all.
            await trio.sleep_forever()
        return error

    def _note_readiness(self, error: str | None) -> None:
        self._attempt.last_health_error = error
        if not self._rotation.changes_with(error is None):
            return
        if error is None:
            self._watch.back_in_rotation(self._slot)
        else:
            self._watch.out_of_rotation(self._slot, error)

    async def _note_liveness(self, error: str | None, liveness: Liveness) -> None:
        if error is None:
            self._failures, self._last_passed_at = 0, trio.current_time()
            self._work.forget()
            return
        self._attempt.last_health_error = error
        excusable = trio.current_time() - self._last_passed_at <= liveness.busy_timeout
        if excusable and await self._work.is_at_work():
            self._failures = 0
            return
        self._failures += 1
        if self._failures >= liveness.failure_threshold:
            self._attempt.end(Cause.LIVENESS)
