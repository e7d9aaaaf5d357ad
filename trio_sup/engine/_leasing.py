"""Which slot serves those who ask for a backend by name, and how they hold it in use."""

from __future__ import annotations

import attrs
import trio

from .._phases import Phase
from ._lifecycle import Lifecycle
from ._slot import Slot, Wanted
from ._slots import SlotTable
from ._wishes import Wishes


@attrs.frozen(kw_only=True)
class Leasing:
    """Gives leases; what is not running is started for them."""

    table: SlotTable
    wishes: Wishes
    lifecycle: Lifecycle

    async def lease(self, identifier: str) -> Slot:
        """Wait until a backend that *identifier* means is ready, and take a lease on it.

        Raises:
            UnknownBackend: Nothing of that name was ever defined or started.
            GivenUp: All that it means were given up.
            StartFailed, StopFailed, SupervisorClosed: It could not be started.

        Cancellation: gives the lease up; a start that nobody else waits for is ended.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            slot = self._best(identifier)
            if slot is not None and slot.is_ready() and not slot.leave:
                slot.lease()
                return slot
            leased = await self._leased(self._wanted(identifier, slot))
            if leased is not None:
                return leased

    def _wanted(self, identifier: str, slot: Slot | None) -> Wanted:
        if slot is None:
            keys = self.table.definitions_of(identifier)
            if not keys:
                raise self.table.unknown(identifier)
            return self.wishes.want(self.table.defined[keys[0]], keys[0])
        if slot.phase is Phase.GIVEN_UP and slot.next is None:
            raise self.lifecycle.given_up(slot)()
        if slot.next is not None:
            return slot.next
        # A lease does not cut a backoff short: only an explicit start does.
        rests = slot.phase is Phase.BACKOFF
        if slot.leave or (slot.is_ending() and not rests):
            return self.wishes.want(self.table.defined[slot.key], slot.key)
        return slot.wanted

    @trio.lowlevel.enable_ki_protection
    async def _leased(self, wanted: Wanted) -> Slot | None:
        """Wait for *wanted*, and tell which slot is leased with it; None if it was over before."""
        if wanted.done.is_set():
            await trio.lowlevel.checkpoint()
            wanted.result()
            return None
        wanted.waiters += 1
        wanted.leasing += 1
        try:
            await wanted.done.wait()
        except BaseException:
            wanted.leasing -= 1  # once it is done, the wait for it is not cancelled any more
            raise
        finally:
            wanted.waiters -= 1
            if wanted.waiters == 0 and not wanted.done.is_set():
                self.wishes.abandon(wanted)
        wanted.result()
        return wanted.slot

    @trio.lowlevel.enable_ki_protection
    def end(self, slot: Slot) -> None:
        """Let go of one lease on *slot*."""
        slot.end_lease(trio.current_time())
        self.table.changes.happened()

    def _best(self, identifier: str) -> Slot | None:
        """Of the slots that it means: a ready one with few leases, else the one most likely to be ready next."""
        return min(self.table.meant_by(identifier), key=_rank, default=None)


def _rank(slot: Slot) -> tuple[int, bool, int]:
    return _RANK[slot.phase], slot.is_ending() or slot.leave, slot.leases


_RANK = {
    phase: rank
    for rank, phase in enumerate(
        (
            Phase.READY,
            Phase.STARTING,
            Phase.WAITING,
            Phase.UNREADY,
            Phase.BACKOFF,
            Phase.STOPPING,
            Phase.STOP_FAILED,
            Phase.GIVEN_UP,
            Phase.GONE,
        )
    )
}
