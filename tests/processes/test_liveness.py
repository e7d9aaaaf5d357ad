"""Readiness and liveness of real processes, once they are ready."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_sup
from tests.conftest import child_command, next_of
from tests.processes.test_real_children import Collected, is_alive, spec_of
from trio_sup import BackendSpec, Cause, Choice, Liveness, Phase, Readiness, events
from trio_sup.bridge import Channel
from trio_sup.protocol import backend_pb2
from trio_sup.testing import scripted_backend

pytestmark = pytest.mark.usefixtures("nothing_survives")

SOON = Choice("on-failure", delay=0.1, max_delay=0.2, jitter=0, limit=20)
NO_CHECKS = Readiness(period=0)


def lively(**options: Any) -> Liveness:
    """Liveness with short periods."""
    return Liveness(**{"period": 0.3, "call_timeout": 0.3, "failure_threshold": 3, **options})


def one_worker(**options: Any) -> BackendSpec:
    return BackendSpec(
        name="model",
        command=child_command("loads_in_its_only_worker"),
        readiness=NO_CHECKS,
        liveness=lively(**options),
        grace=5,
    )


async def load(channel: Channel, model: str) -> backend_pb2.Result:
    options = backend_pb2.ModelOptions(Model=model)
    return await channel.unary_unary("/backend.Backend/LoadModel", options, backend_pb2.Result, timeout=60)


async def test_one_that_was_stopped_by_a_signal_is_found_ended_and_restarted() -> None:
    spec = scripted_backend(readiness=NO_CHECKS, liveness=lively(), stop_policy="terminate", grace=5)
    with trio.fail_after(40):
        async with trio_sup.open_supervisor(restart_policy=SOON) as sup:
            first = await sup.start(spec)
            assert first.pid is not None
            stream = sup.events()
            os.kill(first.pid, signal.SIGSTOP)
            stopping = await next_of(stream, events.BackendStopping)
            assert (stopping.cause, stopping.detail) == (Cause.LIVENESS, "no answer within 0.3 s")
            again = await next_of(stream, events.BackendReady)
            assert not is_alive(first.pid)
            assert again.pid != first.pid
            assert again.address == first.address
            (report,) = sup.exit_reports(first.key)
            assert (report.cause, report.phase, report.asked) == (Cause.LIVENESS, Phase.READY, False)


@pytest.mark.slow
async def test_one_whose_only_worker_computes_is_not_ended() -> None:
    output = Collected()
    with trio.fail_after(60):
        async with trio_sup.open_supervisor(restart_policy=SOON, on_output=output) as sup:
            backend = await sup.start(one_worker())
            async with sup.channel(backend.key) as channel:
                # Without the excuse it would be ended three times within this.
                reply = await load(channel, "compute 6")
            assert reply.success
            assert [one.generation for one in sup.backends] == [1]
            assert sup.exit_reports(backend.key) == ()


@pytest.mark.slow
async def test_one_that_computes_beyond_the_busy_timeout_is_ended() -> None:
    with trio.fail_after(60):
        async with trio_sup.open_supervisor() as sup, trio.open_nursery() as nursery:
            backend = await sup.start(one_worker(busy_timeout=2))
            stream = sup.events()

            async def call() -> None:
                with pytest.raises(trio_sup.CallFailed):
                    async with sup.channel(backend.key) as channel:
                        await load(channel, "compute 50")

            nursery.start_soon(call)
            began = trio.current_time()
            stopping = await next_of(stream, events.BackendStopping)
            assert stopping.cause is Cause.LIVENESS
            assert 2 <= trio.current_time() - began < 20
            await next_of(stream, events.BackendGone)


async def test_one_that_sleeps_in_a_deadlock_is_ended() -> None:
    with trio.fail_after(60):
        async with trio_sup.open_supervisor(restart_policy=SOON) as sup, trio.open_nursery() as nursery:
            backend = await sup.start(one_worker())
            stream = sup.events()

            async def call() -> None:
                with pytest.raises(trio_sup.CallFailed):
                    async with sup.channel(backend.key) as channel:
                        await load(channel, "deadlock")

            nursery.start_soon(call)
            stopping = await next_of(stream, events.BackendStopping)
            assert stopping.cause is Cause.LIVENESS
            assert (await next_of(stream, events.BackendReady)).generation == 2


async def test_readiness_is_lost_and_found_again(tmp_path: Path) -> None:
    flag = tmp_path / "takes calls"
    flag.touch()
    probe = Choice("exec", command=["test", "-e", str(flag)])
    spec = spec_of("listens", readiness=Readiness(probe=probe, period=0.1, failure_threshold=2, success_threshold=2))
    with trio.fail_after(40):
        async with trio_sup.open_supervisor(restart_policy=SOON) as sup, trio.open_nursery() as nursery:
            first = await sup.start(spec)
            stream = sup.events()
            flag.unlink()
            unready = await next_of(stream, events.BackendUnready)
            assert sup.get_address(first.key) is None
            assert sup.is_running(first.key)
            with pytest.raises(trio_sup.CallFailed, match="is not ready"):
                async with sup.channel(first.key):
                    pass
            (backend,) = sup.backends
            assert (backend.phase, backend.address, backend.why) == (Phase.UNREADY, None, unready.why)
            started: list[trio_sup.Backend] = []

            async def start() -> None:
                started.append(await sup.start(spec))

            nursery.start_soon(start)
            await wait_all_tasks_blocked()
            assert started == []
            flag.touch()
            ready = await next_of(stream, events.BackendReady)
            assert (ready.previous, ready.pid, ready.address) == (Phase.UNREADY, first.pid, first.address)
            assert sup.get_address(first.key) == first.address
        assert [(backend.pid, backend.phase) for backend in started] == [(first.pid, Phase.READY)]


async def test_a_stranger_that_takes_over_the_port_is_never_handed_out() -> None:
    """Its own connection goes on answering: only the listener tells that new ones would go astray (promise P4)."""
    readiness = Readiness(period=0.2, failure_threshold=1)
    # It closes its listener once it has two connections: the supervisor's, and one of the test's.
    spec = BackendSpec(name="x", command=child_command("raw_h2", "--connections", "2"), readiness=readiness, grace=5)
    with trio.fail_after(40):
        async with trio_sup.open_supervisor() as sup:
            backend = await sup.start(spec)
            stream = sup.events()
            assert backend.port is not None
            await trio.sleep(1)  # five checks: its own listener is no reason
            assert sup.get_address(backend.key) is not None
            with socket.create_connection(("127.0.0.1", backend.port)):
                unready = await next_of(stream, events.BackendUnready)
                assert "listen" in unready.why  # nobody could connect any more
                stranger = subprocess.Popen(
                    child_command("binds_with_reuse_port", "--addr", f"127.0.0.1:{backend.port}"),
                    stdout=subprocess.PIPE,
                )
                try:
                    assert stranger.stdout is not None
                    assert stranger.stdout.readline().startswith(b"serving")
                    while f"pid {stranger.pid}" not in str(sup._table[backend.key].attempt.last_health_error):
                        await trio.sleep(0.05)
                    assert sup.get_address(backend.key) is None
                    assert is_alive(backend.pid or 0)
                finally:
                    stranger.kill()
                    stranger.communicate()
            assert sup.backends[0].phase is Phase.UNREADY


async def test_a_stranger_that_listens_beside_it_takes_it_out_of_rotation() -> None:
    spec = spec_of("binds_with_reuse_port", readiness=Readiness(probe="tcp", period=0.2, failure_threshold=1))
    with trio.fail_after(40):
        async with trio_sup.open_supervisor() as sup:
            backend = await sup.start(spec)
            stream = sup.events()
            stranger = subprocess.Popen(
                child_command("binds_with_reuse_port", "--addr", f"127.0.0.1:{backend.port}"), stdout=subprocess.PIPE
            )
            try:
                unready = await next_of(stream, events.BackendUnready)
                assert "not part of this backend" in unready.why
                assert f"pid {stranger.pid}" in unready.why
            finally:
                stranger.kill()
                stranger.communicate()
            await next_of(stream, events.BackendReady)
            assert sup.get_address(backend.key) == backend.address
