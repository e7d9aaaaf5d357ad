"""Who makes room for a backend that is to be started: decided from what there is, without side effects."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import attrs

from ._units import bytes_in_words
from ._values import ProcessKey


class Use(enum.Enum):
    """What a slot that takes up room is at; the value says why it stays, for messages."""

    IDLE = "idle, but stopping it as well would not be enough"
    """Ready, and nobody has a lease on it: the only one that may be stopped for another."""
    LEASED = "in use"
    PINNED = "pinned"
    NEEDED = "needed by others that run"
    STARTING = "starting"
    STOPPING = "stopping, but that is not enough"
    """Its room is about to be free."""
    STUCK = "could not be ended"
    """Something of it is still alive after everything was tried."""


@attrs.frozen(kw_only=True)
class Occupant:
    """A slot that takes up room.

    Attributes:
        last_used_at: The instant when its last lease ended, or when it became ready.
        cost_bytes: What it needs: measured, or as declared if it has not started.
    """

    key: ProcessKey
    use: Use
    last_used_at: float = 0.0
    cost_bytes: int = 0


@attrs.frozen
class Fits:
    """It may be started now."""


@attrs.frozen
class AwaitRoom:
    """It may be started when enough of these, which are being stopped already, are gone."""

    keys: Sequence[ProcessKey]


@attrs.frozen
class Evict:
    """It may be started once these have been stopped, together with those that are being stopped already."""

    keys: Sequence[ProcessKey]


@attrs.frozen
class Refuse:
    """Nothing that may be stopped would be enough.

    Attributes:
        why: Which bound it is, in words.
        holders: Who takes up the room, each with the reason why it stays.
    """

    why: str
    holders: Sequence[tuple[ProcessKey, str]] = ()


Decision: TypeAlias = Fits | AwaitRoom | Evict | Refuse


@attrs.frozen(kw_only=True)
class Bounds:
    """What all backends together may take; None is no bound.

    Attributes:
        max_running: How many may be there at once.
        memory_budget: Bytes that they may need.
    """

    max_running: int | None = None
    memory_budget: int | None = None

    def hold(self, occupants: Sequence[Occupant], cost_bytes: int) -> bool:
        """Whether *occupants* and one more that costs so much are within them."""
        if self.max_running is not None and len(occupants) + 1 > self.max_running:
            return False
        return self.memory_budget is None or _cost_of(occupants) + cost_bytes <= self.memory_budget


def make_room(newcomer: ProcessKey, cost_bytes: int, occupants: Iterable[Occupant], bounds: Bounds) -> Decision:
    """Decide who makes room for *newcomer*.

    Only idle ones are stopped, the least recently used first; and none of them without which there would be room just
    the same. Once they are being stopped, the same question is answered with `AwaitRoom`, and then with `Fits`.

    Args:
        cost_bytes: What it is declared to need.
        occupants: Whoever takes up room. The newcomer's own former process does not count: it is gone before another
            one is started.
    """
    if bounds.max_running == 0:
        return Refuse("nothing may run: max_running is 0")
    if bounds.memory_budget is not None and cost_bytes > bounds.memory_budget:
        return Refuse(
            f"it is declared to need {bytes_in_words(cost_bytes)}, more than the whole memory_budget of "
            f"{bytes_in_words(bounds.memory_budget)}"
        )
    everyone = [each for each in occupants if each.key != newcomer]
    if bounds.hold(everyone, cost_bytes):
        return Fits()
    staying = [each for each in everyone if each.use is not Use.STOPPING]
    if bounds.hold(staying, cost_bytes):
        return AwaitRoom(_keys(each for each in everyone if each.use is Use.STOPPING))
    idle = sorted((each for each in staying if each.use is Use.IDLE), key=lambda each: (each.last_used_at, each.key))
    chosen: list[Occupant] = []
    for each in idle:
        if bounds.hold(_without(staying, chosen), cost_bytes):
            break
        chosen.append(each)
    if not bounds.hold(_without(staying, chosen), cost_bytes):
        return Refuse(_why(everyone, cost_bytes, bounds), [(each.key, each.use.value) for each in everyone])
    # A large one may have come last, and be enough without the small ones before it.
    for each in reversed(chosen):
        others = [other for other in chosen if other is not each]
        if bounds.hold(_without(staying, others), cost_bytes):
            chosen = others
    return Evict(_keys(chosen))


def _why(everyone: Sequence[Occupant], cost_bytes: int, bounds: Bounds) -> str:
    reasons = []
    if bounds.max_running is not None and len(everyone) + 1 > bounds.max_running:
        reasons.append(f"max_running allows {bounds.max_running} at once")
    if bounds.memory_budget is not None and _cost_of(everyone) + cost_bytes > bounds.memory_budget:
        budget, taken = bytes_in_words(bounds.memory_budget), bytes_in_words(_cost_of(everyone))
        reasons.append(
            f"of the memory_budget of {budget}, {taken} are taken, and it is declared to need "
            f"{bytes_in_words(cost_bytes)}"
        )
    return " and ".join(reasons)


def _without(occupants: Sequence[Occupant], leaving: Sequence[Occupant]) -> list[Occupant]:
    gone = {each.key for each in leaving}
    return [each for each in occupants if each.key not in gone]


def _keys(occupants: Iterable[Occupant]) -> tuple[ProcessKey, ...]:
    return tuple(each.key for each in occupants)


def _cost_of(occupants: Iterable[Occupant]) -> int:
    return sum(each.cost_bytes for each in occupants)
