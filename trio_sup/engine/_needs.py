"""What needs what: waiting for needed backends, who goes when one of them fails, and in which order all of it stops."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs
import trio

from .._phases import Cause, Phase
from .._values import ProcessKey
from ..errors import NeedFailed, TrioSupError
from ._outcome import why_ended
from ._slot import Slot, Wanted
from ._slots import SlotTable


@attrs.frozen(kw_only=True)
class Needs:
    """The engine's view of `BackendSpec.needs`: a need is met while at least one backend that it means is ready.

    Args:
        start: Has what is defined under a key started.
        abandon: Told of a wish that nobody waits for any more.
    """

    table: SlotTable
    start: Callable[[ProcessKey], Wanted]
    abandon: Callable[[Wanted], None]

    async def met(self, slot: Slot, waits_for: Callable[[str], None]) -> None:
        """Wait until everything that *slot* needs is ready; what is defined and does not run is started.

        What is waited for is held: it goes on although everybody else who waits for it leaves.

        Args:
            waits_for: Told what is waited for.

        Raises:
            NeedFailed: Something that it needs was given up, or has ended while it was waited for.

        Cancellation: a start that nobody else waits for is ended.
        """
        waiting = _Waiting(self, slot)
        held: list[Wanted] = []
        try:
            while unmet := waiting.unmet():
                let_go, held = held, self._hold(slot, unmet)
                self._let_go(let_go)
                waits_for(f"{' and '.join(unmet)}, which it needs")
                await self.table.changes.next(*unmet)
        finally:
            self._let_go(held)

    def _hold(self, slot: Slot, needs: Iterable[str]) -> list[Wanted]:
        wishes = [each.next or each.wanted for need in needs for each in self.means(need, slot)]
        for wanted in wishes:
            wanted.waiters += 1
        return wishes

    def _let_go(self, wishes: Iterable[Wanted]) -> None:
        for wanted in wishes:
            wanted.waiters -= 1
            if not wanted.waiters and not wanted.done.is_set():
                self.abandon(wanted)

    def are_met(self, slot: Slot) -> bool:
        """Whether everything that *slot* needs is ready."""
        return all(any(each.serves() for each in self.means(need, slot)) for need in slot.spec.needs)

    def means(self, need: str, slot: Slot) -> list[Slot]:
        """The slots that *need* means when *slot* needs it; those that were given up included."""
        return [each for each in self.table.meant_by(need) if each is not slot]

    def _of(self, slot: Slot) -> list[list[Slot]]:
        """For each need of *slot*, the slots any of which may meet it."""
        return [
            [each for each in self.means(need, slot) if each.phase is not Phase.GIVEN_UP] for need in slot.spec.needs
        ]

    def end_bound_to(self, failed: Slot) -> None:
        """*failed* ended although nobody had asked for it: end those that are bound to it and have no other."""
        for other in self.table:
            if not (other.spec.bind and other.is_live()) or other is failed:
                continue
            for slots in self._of(other):
                if failed in slots and not any(each.serves() for each in slots if each is not failed):
                    other.attempt.end(Cause.NEEDED_FAILED)

    def reached_from(self, slot: Slot) -> set[ProcessKey]:
        """The keys of all that *slot* needs, directly or by way of others."""
        todo, seen = [slot], {slot.key}
        while todo:
            for slots in self._of(todo.pop()):
                new = [each for each in slots if each.key not in seen]
                seen.update(each.key for each in new)
                todo += new
        return seen - {slot.key}

    def dependents_of(self, leaving: Iterable[Slot], *, leaving_too: bool = False) -> list[Slot]:
        """Those that would lack something if *leaving* were stopped, directly or by way of others; without these.

        Args:
            leaving_too: With those that are on their way out already, and not gone yet.
        """
        used_by: dict[ProcessKey, list[tuple[Slot, list[Slot]]]] = {}
        for slot in self.table:
            if slot.spec.needs and slot.phase is not Phase.GIVEN_UP and (leaving_too or not slot.goes_for_good()):
                for slots in self._of(slot):
                    for each in slots:
                        used_by.setdefault(each.key, []).append((slot, slots))
        gone = {slot.key: slot for slot in leaving}
        asked, todo = set(gone), deque(gone.values())
        while todo:
            for dependent, slots in used_by.get(todo.popleft().key, ()):
                if dependent.key not in gone and _loses(dependent, slots, gone):
                    gone[dependent.key] = dependent
                    todo.append(dependent)
        return [slot for key, slot in gone.items() if key not in asked]

    def has_live_dependents(self, slot: Slot) -> bool:
        """Whether stopping *slot* would take something away from one that is not gone yet."""
        return bool(self.dependents_of([slot], leaving_too=True))

    def first_to_go(self, leaving: Sequence[Slot]) -> Mapping[ProcessKey, Sequence[Slot]]:
        """For each of *leaving*, those of them that need it directly: it is stopped after them."""
        first: dict[ProcessKey, dict[ProcessKey, Slot]] = {slot.key: {} for slot in leaving}
        for slot in leaving:
            for slots in self._of(slot):
                for needed in slots:
                    if needed.key in first:
                        first[needed.key][slot.key] = slot
        return {key: list(slots.values()) for key, slots in first.items()}

    def note_end_of(self, dependent: Slot) -> None:
        """*dependent* has ended: what it needed counts as used until now."""
        for slots in self._of(dependent):
            for slot in slots:
                slot.last_used_at = trio.current_time()


class _Waiting:
    """What one attempt waits for, and what it has seen of it so far."""

    def __init__(self, needs: Needs, slot: Slot) -> None:
        self._needs, self._slot = needs, slot
        # What has failed is not started anew by those that ended with it: the two would go round and round.
        self._seen: dict[str, Sequence[Slot]] = dict.fromkeys(slot.spec.needs, ()) if slot.returns_to_needs else {}

        self._started: dict[str, list[Wanted]] = {}

    def unmet(self) -> list[str]:
        """The needs that are not met now, having seen to it that they may be."""
        return [need for need in self._slot.spec.needs if not self._is_met(need)]

    def _is_met(self, need: str) -> bool:
        slots = self._needs.means(need, self._slot)
        if any(slot.serves() for slot in slots):
            for wanted in self._started.pop(need, ()):
                wanted.held = True  # the other replicas are to become ready all the same
            return True
        if all(slot.phase is Phase.GIVEN_UP or slot.goes_for_good() for slot in slots):
            self._begin(need, slots)
        if slots := self._needs.means(need, self._slot):
            self._seen[need] = slots
        return False

    def _begin(self, need: str, slots: Sequence[Slot]) -> None:
        """None of *slots* is going to be ready: have started what may be, or fail."""
        given_up = [slot for slot in slots if slot.phase is Phase.GIVEN_UP]
        if need not in self._seen:
            out = {self._slot.key, *(slot.key for slot in given_up)}
            if keys := [key for key in self._needs.table.definitions_of(need) if key not in out]:
                self._started[need] = [self._start(key) for key in keys]
                return
        if given_up:
            raise self._failed(str(given_up[0].key), f"was given up: {given_up[0].why}")
        if need in self._seen and not slots:
            ended = self._seen[need]
            raise self._failed(need, f"has ended: {why_ended(ended[0].attempt)}" if ended else "has ended")

    def _start(self, key: ProcessKey) -> Wanted:
        try:
            return self._needs.start(key)
        except TrioSupError as error:
            raise self._failed(str(key), f"cannot be started: {error}") from error

    def _failed(self, needed: str, why: str) -> NeedFailed:
        return NeedFailed(self._slot.key, self._slot.attempt.generation, needed=needed, why=why)


def _loses(dependent: Slot, slots: Sequence[Slot], gone: Mapping[ProcessKey, Slot]) -> bool:
    """Whether *dependent*, which needs any of *slots*, would lose the last one that serves it, or the last at all."""
    left = [slot for slot in slots if slot.key not in gone and not slot.goes_for_good()]
    if not left:
        return True
    is_served = dependent.is_live() and any(slot.serves() for slot in slots)
    return is_served and not any(slot.serves() for slot in left)
