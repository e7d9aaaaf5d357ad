"""Random operations on a supervisor, the same whether its processes are real or not."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial

import attrs
import trio

import trio_sup
from trio_sup import BackendSpec, Phase, ProcessKey, events
from trio_sup._phases import MOVES

REFUSALS = (
    trio_sup.StartFailed,
    trio_sup.StopFailed,
    trio_sup.SpecConflict,
    trio_sup.StillNeeded,
    trio_sup.UnknownBackend,
    trio_sup.CallFailed,
    trio_sup.SupervisorClosed,
)
"""What an operation may be answered with; anything else is a bug."""


@attrs.frozen(kw_only=True)
class Stage:
    """What the operations are played on.

    Attributes:
        specs: What may be started; several of one name are what replaces one another.
        faults: Ways to hurt what runs, each called with the source of chance.
        pause: Seconds between two operations, at the most.
        patience: Seconds for which a caller waits, at the most.
    """

    supervisor: trio_sup.Supervisor
    specs: Sequence[BackendSpec]
    faults: Sequence[Callable[[random.Random], None]]
    pause: float
    patience: float


@attrs.define
class Player:
    """Plays operations, each in a task of its own, and counts them by kind."""

    stage: Stage
    rng: random.Random
    played: dict[str, int] = attrs.field(factory=dict)
    leased: int = 0

    async def play(self, count: int, check: Callable[[], None]) -> None:
        """Play *count* operations, and *check* after each of them."""
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                name, operation = self._choose()
                self.played[name] = self.played.get(name, 0) + 1
                nursery.start_soon(self._bounded, operation, self._patience(), name=name)
                await trio.sleep(self.rng.choice([0.0, 0.0, self.rng.random() * self.stage.pause]))
                check()
        assert self.leased == 0
        assert [backend.leases for backend in self.stage.supervisor.backends if backend.leases] == []

    def _patience(self) -> float:
        return self.rng.choice([0.0, self.rng.random() * self.stage.patience, self.stage.patience])

    async def _bounded(self, operation: Callable[[], Awaitable[object]], patience: float) -> None:
        with trio.move_on_after(patience):
            with suppress(*REFUSALS):
                await operation()

    def _choose(self) -> tuple[str, Callable[[], Awaitable[object]]]:
        rng, sup = self.rng, self.stage.supervisor
        spec, replica = rng.choice(self.stage.specs), rng.randrange(2)
        key = ProcessKey(spec.name, replica)
        kinds: Mapping[str, tuple[int, Callable[[], Awaitable[object]]]] = {
            "start": (6, partial(sup.start, spec, replica=replica, replace=rng.random() < 0.3)),
            "start by name": (2, partial(sup.start, str(key))),
            "use": (6, partial(self._use, key, rng.random() * self.stage.patience)),
            "use by name": (2, partial(self._use, spec.name, rng.random() * self.stage.patience)),
            "channel": (2, partial(self._channel, key, rng.random() * self.stage.patience)),
            "stop": (4, partial(sup.stop, key, force=rng.random() < 0.2)),
            "stop all of a name": (1, partial(sup.stop, spec.name)),
            "stop unless needed": (1, partial(sup.stop, key, dependents="refuse")),
            "stop everything": (1 if rng.random() < 0.2 else 0, partial(sup.stop_all, force=rng.random() < 0.2)),
            "undefine": (1, partial(sup.undefine, key, force=rng.random() < 0.2)),
            "fault": (8, self._fault),
        }
        name = rng.choices(list(kinds), [weight for weight, _ in kinds.values()])[0]
        return name, kinds[name][1]

    async def _fault(self) -> None:
        self.rng.choice(self.stage.faults)(self.rng)
        await trio.lowlevel.checkpoint()

    async def _use(self, what: ProcessKey | str, seconds: float) -> None:
        async with self.stage.supervisor.use(what) as backend:
            assert backend.address is not None
            self.leased += 1
            try:
                await trio.sleep(seconds)
            finally:
                self.leased -= 1

    async def _channel(self, key: ProcessKey, seconds: float) -> None:
        async with self.stage.supervisor.channel(key):
            await trio.sleep(seconds)


@attrs.define
class Witness:
    """Follows the events, and what the supervisor says of its slots.

    Args:
        max_running: How many may have a process at once.
    """

    supervisor: trio_sup.Supervisor
    max_running: int | None = None
    phases: dict[ProcessKey, Phase] = attrs.field(factory=dict)
    generations: dict[ProcessKey, int] = attrs.field(factory=dict)
    moves: set[tuple[Phase, Phase]] = attrs.field(factory=set)

    async def follow(self, stream: trio_sup.engine.EventStream) -> None:
        """Check the events of *stream* until it ends."""
        async for event in stream:
            assert not isinstance(event, events.EventsLost), "the witness is too slow to testify"
            if isinstance(event, events.BackendMoved):
                before = self.phases.get(event.key, Phase.GONE)
                assert event.previous is before
                assert event.phase in MOVES[before]
                assert event.generation >= self.generations.get(event.key, 0)
                self.moves.add((before, event.phase))
                self.phases[event.key], self.generations[event.key] = event.phase, event.generation

    def look(self) -> None:
        """Check what the supervisor says now."""
        backends = self.supervisor.backends
        ports = [backend.port for backend in backends if backend.port is not None]
        assert len(ports) == len(set(ports))
        with_process = [each for each in backends if each.phase in _WITH_PROCESS]
        assert self.max_running is None or len(with_process) <= self.max_running
        for backend in backends:
            assert backend.leases >= 0
            address = self.supervisor.get_address(backend.key)
            assert address is None or backend.phase is Phase.READY
            assert (backend.pid is not None) == (backend.phase in _WITH_PROCESS)
            assert (backend.next_start_at is not None) == (backend.phase is Phase.BACKOFF)


_WITH_PROCESS = (Phase.STARTING, Phase.READY, Phase.UNREADY, Phase.STOPPING, Phase.STOP_FAILED)


def splits(total: int, size: int) -> Iterator[int]:
    """*total* in parts of at most *size*."""
    while total > 0:
        yield min(total, size)
        total -= size
