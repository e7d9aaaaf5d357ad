"""P2, one process per key and generation: there is at most one process tree for a key at any time.

Starts of one key at the same time share one attempt, a stop during a start wins, and an attempt that was overtaken is
neither advertised nor frees the port of its successor. Random schedules with fake processes are in
`tests/engine/test_random_schedules.py`; that nothing is started beside survivors is shown in `test_p3_stop_ends.py`.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import socket
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import trio

import trio_sup
from tests.conftest import next_of
from trio_sup import Phase, ProcessKey, events, hookimpl
from trio_sup.events import Event
from trio_sup.guard import _proc

from .backends import alive, spec_of, tree_of, until

pytestmark = pytest.mark.usefixtures("nothing_survives")


class OneTreePerKey:
    """A plugin that looks, whenever a process of a key has been launched, for what is left of the earlier ones."""

    def __init__(self) -> None:
        self.launches: defaultdict[ProcessKey, list[int]] = defaultdict(list)
        self.second_processes: list[str] = []

    @hookimpl
    def trio_sup_observers(self) -> Sequence[Callable[[Event], None]]:
        return [self._look]

    def _look(self, event: Event) -> None:
        if not isinstance(event, events.BackendStarting):
            return
        earlier = self.launches[event.key]
        if earlier:
            for process in _proc.scan():
                if process.alive and (process.session in earlier or process.pid in earlier):
                    self.second_processes.append(f"{process.pid} beside {event.pid} of {event.key}")
        earlier.append(event.pid)


async def test_a_storm_of_starts_stops_and_kills_never_makes_two_trees_of_a_key() -> None:
    seed = secrets.token_hex(4)
    print("seed", seed)
    rng = random.Random(seed)
    plugin = OneTreePerKey()
    specs = [
        # None that shed every name: when the leader is killed, nobody could find those.
        spec_of("escapes", "--with", "plain,own_session,daemon", "--ignores", grace=0.05),
        spec_of("escapes", "--with", "own_group", grace=1),
    ]

    async def act(sup: trio_sup.Supervisor) -> None:
        for _ in range(25):
            replica = rng.randrange(2)
            match rng.choice(["start", "start", "start", "replace", "stop", "force", "kill"]):
                case "start":
                    with trio.move_on_after(rng.choice([0.02, 0.2, 20])):
                        try:
                            backend = await sup.start(specs[0], model="m", replica=replica)
                            assert backend.phase is Phase.READY
                        except (trio_sup.StartFailed, trio_sup.SpecConflict):
                            pass
                case "replace":
                    with trio.move_on_after(rng.choice([0.02, 20])):
                        with contextlib.suppress(trio_sup.StartFailed):
                            await sup.start(rng.choice(specs), model="m", replica=replica, replace=True)
                case "stop" | "force" as how:
                    for report in await sup.stop(f"m#{replica}", force=how == "force"):
                        assert report.gone
                case "kill":
                    for backend in sup.backends:
                        if backend.key.replica == replica and backend.pid is not None and alive([backend.pid]):
                            os.kill(backend.pid, signal.SIGKILL)
            await trio.sleep(rng.choice([0, 0.001, 0.05]))

    with trio.fail_after(120):
        async with trio_sup.open_supervisor(plugins=[plugin]) as sup, trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(act, sup)
    assert plugin.second_processes == []
    assert sum(map(len, plugin.launches.values())) > 4


async def test_starts_at_the_same_time_share_one_process() -> None:
    with trio.fail_after(30):
        async with trio_sup.open_supervisor() as sup:
            stream = sup.events()
            pids: set[int | None] = set()

            async def start() -> None:
                pids.add((await sup.start(spec_of("binds_late", "--delay", "0.3"))).pid)

            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(start)
        launched = [event.pid async for event in stream if isinstance(event, events.BackendStarting)]
    assert [*pids] == launched


async def test_a_stop_during_a_start_wins() -> None:
    with trio.fail_after(30):
        async with trio_sup.open_supervisor() as sup, trio.open_nursery() as nursery:
            stream = sup.events()

            async def start() -> None:
                with pytest.raises(trio_sup.StoppedDuringStartup):
                    await sup.start(spec_of("never_listens", grace=1))

            nursery.start_soon(start)
            started = await next_of(stream, events.BackendStarting)
            (report,) = await sup.stop("never-listens")
            assert report.gone
            assert alive([started.pid]) == []
            assert sup.backends == ()


async def test_a_start_during_a_stop_waits_until_the_old_tree_is_gone() -> None:
    with trio.fail_after(30):
        async with trio_sup.open_supervisor() as sup, trio.open_nursery() as nursery:
            stream = sup.events()
            # The leader ends politely; some of its tree have to be killed.
            spec = spec_of("escapes", "--with", "ignoring,own_session,cleared,forking", grace=5)
            first = await sup.start(spec)
            assert first.pid is not None
            tree = tree_of(first.pid)
            assert len(tree) > 4
            nursery.start_soon(sup.stop, "escapes")
            await next_of(stream, events.BackendStopping)
            nursery.start_soon(sup.start, spec)
            second = await next_of(stream, events.BackendStarting)
            assert alive(tree) == []
            assert second.pid != first.pid


async def test_one_that_was_overtaken_is_not_advertised_and_frees_nobody_s_port() -> None:
    slow, quick = spec_of("binds_late", "--delay", "0.4", grace=1), spec_of("listens", grace=1)
    with trio.fail_after(30):
        async with trio_sup.open_supervisor() as sup, trio.open_nursery() as nursery:
            stream = sup.events()

            async def overtaken() -> None:
                with pytest.raises(trio_sup.StoppedDuringStartup):
                    await sup.start(slow, model="m")

            nursery.start_soon(overtaken)
            first = await until(stream, events.BackendStarting, "m#0")
            second = await sup.start(quick, model="m", replace=True)
            ready = await until(stream, events.BackendReady, "m#0")
            assert (ready.generation, ready.pid) == (second.generation, second.pid)
            assert second.generation > first.generation
            assert alive([first.pid]) == []
            assert sup.get_address("m#0") == second.address
            # The port is still its own: nobody else can bind it as a stranger would.
            with socket.socket() as stranger, pytest.raises(OSError, match="Address already in use"):
                stranger.bind(("127.0.0.1", second.port or 0))
            async with trio.open_nursery() as others:
                for replica in range(1, 6):
                    others.start_soon(partial(sup.start, quick, model="m", replica=replica))
            assert [each.port for each in sup.backends].count(second.port) == 1
