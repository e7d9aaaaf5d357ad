"""Restarts of real processes."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence

import pytest
import trio

import trio_sup
from tests.conftest import next_of
from tests.processes.test_real_children import Collected, is_alive, spec_of
from trio_sup import BackendSpec, Choice, ExitStatus, Phase, events, hookimpl
from trio_sup.engine._port_hold import hold_port
from trio_sup.events import Event
from trio_sup.protocol import backend_pb2
from trio_sup.testing import scripted_backend

pytestmark = pytest.mark.usefixtures("nothing_survives")

SOON = Choice("on-failure", delay=0.1, max_delay=0.2, jitter=0, limit=20)


class Observing:
    """A plugin with one observer: it is called within the very step that the event is about."""

    def __init__(self, observer: Callable[[Event], None]) -> None:
        self.observer = observer

    @hookimpl
    def trio_sup_observers(self) -> Sequence[Callable[[Event], None]]:
        return [self.observer]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
async def test_one_that_is_killed_is_ready_again_with_a_new_pid_on_the_same_port(number: signal.Signals) -> None:
    store = BackendSpec(name="store", command=[sys.executable, "-m", "trio_sup.backends.store"], grace=5)
    with trio.fail_after(30):
        async with trio_sup.open_supervisor(restart_policy=SOON) as sup:
            first = await sup.start(store)
            assert first.pid is not None
            stream = sup.events()
            os.kill(first.pid, number)
            backoff = await next_of(stream, events.BackendBackoff)
            assert not is_alive(first.pid)
            assert sup.get_address(first.key) is None
            assert backoff.report is not None
            assert backoff.report.status == ExitStatus(signal=number)
            again = await next_of(stream, events.BackendReady)
            assert again.pid != first.pid
            assert is_alive(again.pid)
            assert (again.address, again.generation) == (first.address, 2)
            assert sup.get_address(first.key) == first.address
            async with sup.channel(first.key) as channel:
                health = backend_pb2.HealthMessage()
                reply = await channel.unary_unary("/backend.Backend/Health", health, backend_pb2.Reply, timeout=5)
                assert reply.message == b"OK"


async def test_one_that_is_killed_again_and_again_comes_back_each_time() -> None:
    with trio.fail_after(30):
        async with trio_sup.open_supervisor(restart_policy=SOON) as sup:
            backend = await sup.start(spec_of("listens"))
            stream = sup.events()
            pid, seen = backend.pid, set()
            for _ in range(5):
                assert pid is not None
                seen.add(pid)
                os.kill(pid, signal.SIGKILL)
                pid = (await next_of(stream, events.BackendReady)).pid
            assert len(seen) == 5
            (backend,) = sup.backends
            assert (backend.restarts, backend.generation) == (5, 6)


@pytest.mark.parametrize(("success_codes", "restarted"), [([0, 7], False), ([0], True)])
async def test_an_exit_code_that_counts_as_success_is_not_followed_by_a_restart(
    success_codes: list[int], restarted: bool
) -> None:
    spec = scripted_backend(die_after=1.5, code=7, success_codes=success_codes, restart_policy=SOON)
    with trio.fail_after(30):
        async with trio_sup.open_supervisor() as sup:
            backend = await sup.start(spec)
            stream = sup.events()
            async for event in stream:
                if isinstance(event, (events.BackendGone, events.BackendReady)):
                    break
            assert isinstance(event, events.BackendReady) == restarted
            report = sup.exit_reports(backend.key)[0]
            assert (report.status, report.success) == (ExitStatus(code=7), not restarted)


async def test_a_crash_loop_is_given_up_and_its_port_is_free() -> None:
    policy = Choice("on-failure", delay=0.1, max_delay=0.2, jitter=0, max_start_failures=3)
    held: list[tuple[Phase, bool]] = []

    def look(event: Event) -> None:
        # Its placeholder keeps the port from everybody else, until it is given up.
        if isinstance(event, (events.BackendBackoff, events.BackendGivenUp)):
            port = hold_port(21640)
            held.append((event.phase, port is None))
            if port is not None:
                port.close()

    ports = Choice("affinity", range="21640-21640")
    with trio.fail_after(30):
        async with trio_sup.open_supervisor(
            restart_policy=policy, ports=ports, plugins=[Observing(look)], install_lock="memory"
        ) as sup:
            with pytest.raises(trio_sup.GivenUp) as caught:
                await sup.start(spec_of("dies_before_ready"))
            assert isinstance(caught.value.last, trio_sup.DiedDuringStartup)
            assert caught.value.last.stderr_tail.splitlines()[-1] == "line 29"
            assert [report.status for report in sup.exit_reports("dies-before-ready#0")] == [ExitStatus(code=3)] * 3
            (backend,) = sup.backends
            assert (backend.phase, backend.pid, backend.port) == (Phase.GIVEN_UP, None, None)
            assert held == [(Phase.BACKOFF, True), (Phase.BACKOFF, True), (Phase.GIVEN_UP, False)]
            with socket.create_server(("127.0.0.1", 21640)):
                pass


async def test_what_a_crashed_one_has_left_behind_is_gone_before_the_next_is_launched() -> None:
    output = Collected()
    pids: list[int] = []
    alive_at: dict[str, list[int]] = {}

    def look(event: Event) -> None:
        if pids and isinstance(event, (events.BackendStopping, events.BackendBackoff, events.BackendStarting)):
            alive_at[type(event).__name__] = list(filter(is_alive, pids))

    with trio.fail_after(30):
        async with trio_sup.open_supervisor(
            restart_policy=SOON, plugins=[Observing(look)], on_output=output, install_lock="memory"
        ) as sup:
            backend = await sup.start(spec_of("leaves_children"))
            pids += [int(pid) for pid in (await output.line_with("children")).split()[1:]]
            assert len(list(filter(is_alive, pids))) == 4
            stream = sup.events()
            assert backend.pid is not None
            os.kill(backend.pid, signal.SIGKILL)
            await next_of(stream, events.BackendReady)
            assert len(alive_at["BackendStopping"]) == 4
            assert (alive_at["BackendBackoff"], alive_at["BackendStarting"]) == ([], [])
            (report,) = sup.exit_reports(backend.key)
            assert report.left_children == 4


async def test_a_stop_of_one_that_waits_for_its_restart_returns_at_once() -> None:
    policy = Choice("on-failure", delay=60, max_delay=60, factor=1, limit=0)
    with trio.fail_after(30):
        async with trio_sup.open_supervisor(restart_policy=policy) as sup:
            backend = await sup.start(spec_of("listens"))
            stream = sup.events()
            assert backend.pid is not None
            os.kill(backend.pid, signal.SIGKILL)
            await next_of(stream, events.BackendBackoff)
            with trio.fail_after(1):
                (report,) = await sup.stop("listens")
            assert report.gone
            assert report.report is not None
            assert report.report.status == ExitStatus(signal=signal.SIGKILL)
            assert sup.backends == ()
