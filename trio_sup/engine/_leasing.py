"""Which slot serves those who ask for a backend by name, and how they hold it in use."""

from __future__ import annotations

import attrs
import trio

from .._phases import Phase
from .._values import BackendSpec, ProcessKey
from ..errors import SpecConflict
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
            if slot is not None and slot.serves():
                slot.lease()
                return slot
            if slot is not None and self._is_undecided(slot):
                await self.table.changes.next(str(slot.key))
                continue
            leased = await self._leased(self._wanted(identifier, slot))
            if leased is not None:
                return leased

    @staticmethod
    def _is_undecided(slot: Slot) -> bool:
        """Whether its attempt ends, and what follows has yet to come: a lease does not cut a backoff short."""
        return (
            slot.next is None
            and slot.is_leaving()
            and not slot.is_resting()
            and not (slot.goes_for_good() or slot.phase is Phase.STOP_FAILED)
        )

    def refuse_conflict(self, key: ProcessKey, spec: BackendSpec) -> None:
        """A lease on *key* would be one on what runs there: see that this is what *spec* asks for.

        Raises:
            SpecConflict: It is another specification.
        """
        slot = self.table.get(key)
        if slot is None or (slot.next is None and (slot.is_leaving() or slot.phase is Phase.GIVEN_UP)):
            return
        differing = spec.differs_from(slot.next.spec if slot.next is not None else slot.spec)
        if differing:
            raise SpecConflict(key, differing)

    def _wanted(self, identifier: str, slot: Slot | None) -> Wanted:
        if slot is None or (slot.phase is Phase.GIVEN_UP and slot.next is None):
            keys = [key for key in self.table.definitions_of(identifier) if self.table.get(key) is None]
            if keys:
                return self.wishes.want(self.table.defined[keys[0]], keys[0])
            raise self.lifecycle.given_up(slot)() if slot is not None else self.table.unknown(identifier)
        if slot.next is not None:
            return slot.next
        # A lease does not cut a backoff short: only an explicit start does.
        if slot.leave or (slot.is_leaving() and not slot.is_resting()):
            return self.wishes.want(self.table.defined[slot.key], slot.key)
        return slot.wanted

    @trio.lowlevel.enable_ki_protection
    async def _leased(self, wanted: Wanted) -> Slot | None:
        """Wait for *wanted*, and tell which slot is leased with it; None if it is to be asked for once more."""
        if wanted.done.is_set():
            await trio.lowlevel.checkpoint()
            wanted.result()
            return None
        wanted.waiters += 1
        wanted.leasing += 1
        try:
            await wanted.done.wait()
        except BaseException:
            if wanted.slot is not None:
                self.end(wanted.slot)  # it was cancelled first, and then became ready in the same step
            else:
                wanted.leasing -= 1
            raise
        finally:
            wanted.waiters -= 1
            if wanted.waiters == 0 and not wanted.done.is_set():
                self.wishes.abandon(wanted)
        wanted.result()
        slot = wanted.slot
        if slot is not None and not slot.serves():
            self.end(slot)  # it has begun to end again in the same step
            return None
        return slot

    @trio.lowlevel.enable_ki_protection
    def end(self, slot: Slot) -> None:
        """Let go of one lease on *slot*."""
        slot.end_lease(trio.current_time())
        self.table.changes.happened()

    def _best(self, identifier: str) -> Slot | None:
        """Of the defined slots that it means: a ready one with few leases, else that most likely to be ready next."""
        slots = (slot for slot in self.table.meant_by(identifier) if slot.key in self.table.defined)
        return min(slots, key=_rank, default=None)


def _rank(slot: Slot) -> tuple[int, int]:
    return _RANK[Phase.STOPPING if slot.is_live() and slot.is_leaving() else slot.phase], slot.leases


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
