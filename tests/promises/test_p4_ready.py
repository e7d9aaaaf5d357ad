"""P4, ready means this process: health answered, by a listener of our own tree, in the attempt that is still current.

What is found out about the owner of a port is tested in `tests/ports/test_port_identity.py`.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

import trio_sup
from tests.conftest import child_command, next_of
from trio_sup import BackendSpec, Phase, Readiness, events

from .backends import alive, spec_of, until

pytestmark = pytest.mark.usefixtures("nothing_survives")

SOON = Readiness(probe="tcp", timeout=2)


@contextmanager
def thief(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A stranger that listens on the port of another, beside its placeholder."""
    process = subprocess.Popen(
        child_command("binds_with_reuse_port", "--addr", f"127.0.0.1:{port}"), stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


async def refused(sup: trio_sup.Supervisor, spec: BackendSpec) -> None:
    with pytest.raises(trio_sup.NotReadyInTime, match=r"not part of this backend.*pid"):
        await sup.start(spec)


async def test_a_thief_on_the_port_of_one_that_does_not_listen_is_not_taken_for_it() -> None:
    with trio.fail_after(30):
        async with trio_sup.open_supervisor() as sup, trio.open_nursery() as nursery:
            stream = sup.events()
            nursery.start_soon(refused, sup, spec_of("never_listens", readiness=SOON, grace=0.5))
            started = await next_of(stream, events.BackendStarting)
            with thief(started.port):
                gone = await next_of(stream, events.BackendGone)
        assert gone.report is not None
        assert gone.report.phase is Phase.STARTING
    assert not any([isinstance(event, events.BackendReady) async for event in stream])


async def test_a_thief_beside_one_that_listens_keeps_it_from_being_ready(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    spec = spec_of("binds_with_reuse_port", "--after", str(gate), readiness=SOON, grace=0.5)
    with trio.fail_after(30):
        async with trio_sup.open_supervisor() as sup, trio.open_nursery() as nursery:
            stream = sup.events()
            nursery.start_soon(refused, sup, spec)
            started = await next_of(stream, events.BackendStarting)
            with thief(started.port):
                gate.write_bytes(b"go")
                await next_of(stream, events.BackendGone)


async def test_a_thief_that_leaves_in_time_does_no_harm(tmp_path: Path) -> None:
    with trio.fail_after(40):
        async with trio_sup.open_supervisor() as sup, trio.open_nursery() as nursery:
            stream = sup.events()
            gate = tmp_path / "gate"
            os.mkfifo(gate)
            nursery.start_soon(sup.start, spec_of("binds_with_reuse_port", "--after", str(gate)))
            started = await next_of(stream, events.BackendStarting)
            with thief(started.port):
                gate.write_bytes(b"go")
            ready = await next_of(stream, events.BackendReady)
            assert ready.pid == started.pid


async def test_a_listener_anywhere_in_its_tree_is_its_own() -> None:
    # The shell is the leader; what listens is its child.
    command = ["sh", "-c", '"$@" & wait', "sh", *child_command("listens", "--addr", "{host}:{port}")]
    with trio.fail_after(30):
        async with trio_sup.open_supervisor() as sup:
            spec = BackendSpec(name="shell", command=command, readiness=SOON, identity="strict", grace=2)
            assert (await sup.start(spec)).phase is Phase.READY


async def test_an_answer_to_an_attempt_that_has_been_overtaken_makes_nobody_ready() -> None:
    with trio.fail_after(60):
        async with trio_sup.open_supervisor() as sup:
            stream = sup.events()
            for _ in range(10):
                async with trio.open_nursery() as nursery:

                    async def start() -> None:
                        try:
                            await sup.start(spec_of("listens"))
                        except trio_sup.StoppedDuringStartup:
                            return

                    nursery.start_soon(start)
                    await next_of(stream, events.BackendStarting)
                    # Somewhere between the launch and the answer.
                    await sup.stop("listens", force=True)
                assert sup.get_address("listens#0") is None
        seen = [event async for event in stream if isinstance(event, events.BackendEvent)]
    ended: set[int] = set()
    for event in seen:
        if isinstance(event, events.BackendStopping):
            ended.add(event.generation)
        assert not (isinstance(event, events.BackendReady) and event.generation in ended)


async def test_one_that_ends_is_out_of_reach_at_once() -> None:
    with trio.fail_after(30):
        async with trio_sup.open_supervisor() as sup:
            backend = await sup.start(spec_of("listens"))
            assert backend.pid is not None
            stream = sup.events()
            os.kill(backend.pid, signal.SIGKILL)
            await until(stream, events.BackendStopping, "listens#0")
            assert sup.get_address("listens#0") is None
            assert alive([backend.pid]) == []
