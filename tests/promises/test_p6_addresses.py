"""P6, no stale address: no key gets a port while somebody may still believe an address that names it.

There is an address only while a backend is READY, a port that a stranger holds is given to nobody, and what was handed
out is a frozen snapshot. The strategies themselves are tested in `tests/ports/`.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Sequence
from functools import partial

import attrs
import pytest
import trio

import trio_sup
from tests.conftest import next_of
from trio_sup import Phase, ProcessKey, events, hookimpl
from trio_sup.events import Event

from .backends import spec_of, until

pytestmark = pytest.mark.usefixtures("nothing_survives")


class AskedAtEveryEvent:
    """A plugin that asks for the address of a backend as soon as anything has happened to it."""

    def __init__(self) -> None:
        self.sup: trio_sup.Supervisor | None = None
        self.answers: list[tuple[Phase, bool]] = []
        self.shared: list[str] = []

    @hookimpl
    def trio_sup_observers(self) -> Sequence[Callable[[Event], None]]:
        return [self._ask]

    def _ask(self, event: Event) -> None:
        if not isinstance(event, events.BackendMoved) or self.sup is None:
            return
        self.answers.append((event.phase, self.sup.get_address(event.key) is not None))
        given = [(backend.port, backend.key) for backend in self.sup.backends if backend.port is not None]
        if len({port for port, _ in given}) < len(given):
            self.shared.append(str(given))


async def test_there_is_an_address_if_and_only_if_it_is_ready() -> None:
    plugin = AskedAtEveryEvent()
    with trio.fail_after(60):
        async with trio_sup.open_supervisor(plugins=[plugin]) as sup:
            plugin.sup = sup
            spec = spec_of("listens")
            backend = await sup.start(spec)
            assert backend.pid is not None
            stream = sup.events()
            os.kill(backend.pid, signal.SIGKILL)
            await next_of(stream, events.BackendGone)
            await sup.start(spec)
            await sup.stop("listens", force=True)
            with pytest.raises(trio_sup.DiedDuringStartup):
                await sup.start(spec_of("dies_before_ready"))
            async with trio.open_nursery() as nursery:
                for replica in range(6):
                    nursery.start_soon(partial(sup.start, spec, model="m", replica=replica))
    assert {answer for _, answer in plugin.answers} == {True, False}
    assert [phase for phase, answer in plugin.answers if answer != (phase is Phase.READY)] == []
    assert plugin.shared == []


@pytest.mark.parametrize("how", ["stopped", "killed", "died at once"])
async def test_a_port_that_was_just_freed_goes_to_no_other_key(how: str) -> None:
    ports = {"strategy": "affinity", "range": "21650-21653"}
    with trio.fail_after(60):
        async with trio_sup.open_supervisor(ports=ports) as sup:
            stream = sup.events()
            if how == "died at once":
                with pytest.raises(trio_sup.DiedDuringStartup):
                    await sup.start(spec_of("dies_before_ready"), model="first")
                freed = (await until(stream, events.BackendStarting, "first#0")).port
            else:
                first = await sup.start(spec_of("listens"), model="first")
                freed = first.port
                assert first.pid is not None
                if how == "killed":
                    os.kill(first.pid, signal.SIGKILL)
                    await until(stream, events.BackendGone, "first#0")
                else:
                    await sup.stop("first")
            others = [await sup.start(spec_of("listens"), model=f"m{number}") for number in range(3)]
            assert freed not in {other.port for other in others}
            # Nothing else is left, and quarantine holds even then.
            with pytest.raises(trio_sup.NoPortAvailable):
                await sup.start(spec_of("listens"), model="one-too-many")


async def test_a_port_that_a_stranger_holds_is_given_to_nobody() -> None:
    with trio.fail_after(30), socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", 21660))
        stranger.listen()
        async with trio_sup.open_supervisor(ports={"strategy": "affinity", "range": "21660-21661"}) as sup:
            assert (await sup.start(spec_of("listens"))).port == 21661
            with pytest.raises(trio_sup.NoPortAvailable, match="21660"):
                await sup.start(spec_of("listens"), replica=1)


async def test_the_port_of_one_that_runs_cannot_be_had_by_strangers() -> None:
    with trio.fail_after(30):
        async with trio_sup.open_supervisor() as sup, trio.open_nursery() as nursery:
            stream = sup.events()
            nursery.start_soon(sup.start, spec_of("binds_late", "--delay", "0.3"))
            started = await next_of(stream, events.BackendStarting)
            # Long before it listens.
            with socket.socket() as stranger, pytest.raises(OSError, match="Address already in use"):
                stranger.bind(("127.0.0.1", started.port))
            await next_of(stream, events.BackendReady)


async def test_a_handle_stays_what_it_was_when_its_backend_does_not() -> None:
    with trio.fail_after(30):
        async with trio_sup.open_supervisor() as sup:
            first = await sup.start(spec_of("listens"))
            before = attrs.asdict(first, recurse=False)
            await sup.stop("listens")
            second = await sup.start(spec_of("listens"))
            assert attrs.asdict(first, recurse=False) == before
            assert second.generation > first.generation
            assert sup.get_address(ProcessKey("listens", 0)) == second.address
            with pytest.raises(attrs.exceptions.FrozenInstanceError):
                first.address = second.address  # type: ignore[misc]
