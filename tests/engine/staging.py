"""Several backends on one imagined machine: who behaves how, by model, and what happened to whom, and when."""

from __future__ import annotations

import random
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio

import trio_sup
from trio_sup import BackendSpec, Phase, events, hookimpl
from trio_sup.strategies import AttemptEnd, GiveUp, Launch, Observer, RestartAfter
from trio_sup.testing import FakeBackend, FakeChild, FakeSystem


def spec(name: str, **fields: Any) -> BackendSpec:
    return BackendSpec(name=name, command=[sys.executable], **fields)


AT_ONCE = {"strategy": "on-failure", "delay": 0, "limit": 3, "period": 60, "max_start_failures": 0}
"""A restart policy without waits, beyond those that the engine insists on."""


@attrs.frozen
class GivesUp:
    """A restart policy that restarts so often, after a wait, and then gives up."""

    after: int = 0
    delay: float = 0.0

    def decide(self, ends: Sequence[AttemptEnd], rng: random.Random) -> RestartAfter | GiveUp:
        return GiveUp("enough") if len(ends) > self.after else RestartAfter(self.delay)


@attrs.frozen
class Told:
    """One event and the instant of it."""

    at: float
    event: events.Event


class Stage(FakeSystem):
    """A fake machine on which the processes of each key or model behave as *by_name* says, one after the other.

    Attributes:
        of: The processes of each model, in the order of their launches.
        told: Every event so far.
    """

    def __init__(self, **by_name: FakeBackend | Sequence[FakeBackend]) -> None:
        super().__init__(self._behaviour_of)
        self._by_name: dict[str, Iterator[FakeBackend]] = {}
        for name, behaviours in by_name.items():
            self._by_name[name] = iter([behaviours] if isinstance(behaviours, FakeBackend) else list(behaviours))
        self._last: dict[str, FakeBackend] = {}
        self.of: dict[str, list[FakeChild]] = {}
        self.told: list[Told] = []

    def _behaviour_of(self, launch: Launch) -> FakeBackend:
        name = str(launch.key) if str(launch.key) in self._by_name else launch.key.model
        behaviour = next(self._by_name.get(name, iter(())), self._last.get(name, FakeBackend()))
        self._last[name] = behaviour
        return behaviour

    def launch(self, launch: Launch, attempt: int) -> FakeChild:
        child = super().launch(launch, attempt)
        self.of.setdefault(launch.key.model, []).append(child)
        return child

    @hookimpl
    def trio_sup_observers(self) -> Sequence[Observer]:
        return [lambda event: self.told.append(Told(trio.current_time(), event))]

    def moves(self, *phases: Phase) -> list[str]:
        """The moves into *phases*, in order, such as ``"db#0 ready"``."""
        moved = (told.event for told in self.told)
        return [
            f"{event.key} {event.phase.value}"
            for event in moved
            if isinstance(event, events.BackendMoved) and event.phase in phases
        ]

    def keys(self, phase: Phase) -> list[str]:
        """The keys that moved into *phase*, in order."""
        return [move.partition(" ")[0] for move in self.moves(phase)]

    def at(self, key: str, phase: Phase) -> list[float]:
        """The instants at which *key* moved into *phase*."""
        return [
            told.at
            for told in self.told
            if isinstance(told.event, events.BackendMoved) and str(told.event.key) == key and told.event.phase is phase
        ]

    def waited_for(self, key: str) -> list[str]:
        """What *key* said it waited for."""
        return [
            told.event.waits_for
            for told in self.told
            if isinstance(told.event, events.BackendWaiting) and str(told.event.key) == key
        ]


@asynccontextmanager
async def staged(stage: Stage, **options: Any) -> AsyncIterator[trio_sup.Supervisor]:
    """A supervisor on *stage*, for a day at most; afterwards nothing may be left there."""
    options.setdefault("install_lock", "memory")
    with trio.fail_after(86400):
        async with trio_sup.open_supervisor(system=stage, plugins=[stage], **options) as sup:
            yield sup
    nothing_is_left(stage)


def nothing_is_left(stage: FakeSystem) -> None:
    assert stage.running() == []
    assert all(child.closed for child in stage.children)
    assert not stage.held


def phases(sup: trio_sup.Supervisor) -> dict[str, Phase]:
    return {str(backend.key): backend.phase for backend in sup.backends}


async def until(sup: trio_sup.Supervisor, key: str, phase: Phase) -> None:
    """Wait until *key* is in *phase*; `Phase.GONE` means that it is not there."""
    stream = sup.events()
    while phases(sup).get(key, Phase.GONE) is not phase:
        await anext(stream)


async def again(sup: trio_sup.Supervisor, key: str, phase: Phase) -> None:
    """Wait until *key* moves into *phase* the next time."""
    async for event in sup.events():
        if isinstance(event, events.BackendMoved) and str(event.key) == key and event.phase is phase:
            return


async def fails(start: Any, error: type[trio_sup.TrioSupError], match: str) -> None:
    """Await *start*, which must raise *error*; for tasks beside a test's own."""
    with pytest.raises(error, match=match):
        await start
