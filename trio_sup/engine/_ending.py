"""The end of an attempt: ask, insist, prove it gone, and stay with what survives."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import attrs
import trio

from .. import events
from .._phases import Cause, Phase
from .._reports import ExitReport, StopReport
from ..errors import StopFailed
from ._asking import Asking
from ._first_of import first_of
from ._moves import Moves
from ._outcome import start_error
from ._slot import Attempt, Slot
from ._system import TreeEnding

KILL_TIMEOUT = 5.0
"""Seconds that a tree has to end after SIGKILL; a driver may hold a process in the kernel that long."""


@attrs.define(eq=False, kw_only=True)
class Endings:
    """Ends attempts.

    Attributes:
        closing: The supervisor ends: survivors are reported, but not waited for.
    """

    moves: Moves
    asking: Asking
    closing: bool = False

    async def end(self, slot: Slot, attempt: Attempt) -> tuple[TreeEnding, bool]:
        """Ask, insist, prove. Bounded; tells what is left and whether the process had to be killed."""
        child = attempt.child
        if child is None:
            return TreeEnding(), False
        self.moves.make(
            slot,
            Phase.STOPPING,
            partial(
                events.BackendStopping,
                cause=attempt.cause or Cause.INTERNAL_ERROR,
                then=slot.then,
                detail=str(attempt.asked_by or attempt.status or attempt.last_health_error or ""),
            ),
        )
        # Whoever observes hears of it before the pass over /proc, which takes its time.
        await trio.lowlevel.checkpoint()
        if not attempt.exited.is_set() and not attempt.forced.is_set():
            await child.remember()
            await self.asking.ask(slot, attempt)
        killed = not attempt.exited.is_set()
        ending = await child.end_tree(KILL_TIMEOUT)
        with trio.move_on_after(1.0):
            await attempt.exited.wait()
        return ending, killed

    async def outlive(
        self, slot: Slot, attempt: Attempt, report_now: Callable[[TreeEnding], ExitReport], ending: TreeEnding
    ) -> TreeEnding:
        """Stay until nothing is left or the supervisor ends; what survivors write meanwhile is still read."""
        child = attempt.child
        if not ending.survivors or child is None:
            return ending
        await self._close_channel(attempt)
        while ending.survivors:
            attempt.report = report_now(ending)
            if self._tell_survivors(slot, attempt, ending):
                break
            await first_of(child.survivors_ended, slot.try_again.wait)
            if not slot.try_again.is_set():
                ending = TreeEnding()
                break
            self.moves.make(
                slot,
                Phase.STOPPING,
                partial(events.BackendStopping, cause=Cause.ASKED, then=slot.then, detail="one more try"),
            )
            ending = await child.end_tree(KILL_TIMEOUT)
        return ending

    async def conclude(self, slot: Slot, attempt: Attempt, report: ExitReport | None, ending: TreeEnding) -> None:
        """Tell what came of it; *report* is None if there never was a process."""
        attempt.report = report
        await self._close_channel(attempt)
        attempt.failure = start_error(slot, attempt)
        if attempt.child is not None:
            attempt.child.close()
        attempt.ending.finish(self._stop_report(slot, attempt, ending))

    @staticmethod
    async def _close_channel(attempt: Attempt) -> None:
        if attempt.channel is not None:
            with trio.move_on_after(1.0):
                await attempt.channel.aclose()

    def _tell_survivors(self, slot: Slot, attempt: Attempt, ending: TreeEnding) -> bool:
        """Move to STOP_FAILED and tell all who wait; the result is whether that is all that can be done."""
        failed = self._stop_report(slot, attempt, ending)
        for wanted in (slot.wanted, slot.next):
            if wanted is not None:
                wanted.fail(partial(StopFailed, [failed]))
        slot.next = None
        self.moves.make(slot, Phase.STOP_FAILED, partial(events.BackendStopFailed, survivors=ending.survivors))
        slot.try_again = trio.Event()
        attempt.ending.finish(failed)
        return self.closing

    @staticmethod
    def _stop_report(slot: Slot, attempt: Attempt, ending: TreeEnding) -> StopReport:
        return StopReport(
            key=slot.key,
            generation=attempt.generation,
            gone=not ending.survivors,
            survivors=ending.survivors,
            report=attempt.report,
        )
