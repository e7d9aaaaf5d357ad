"""Every operation is cancelled at each of its steps, and afterwards nothing is left."""

from __future__ import annotations

import gc
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

import trio_sup
from tests.conftest import child_command, children, descriptors, marked_processes
from trio_sup import BackendSpec, Readiness
from trio_sup.protocol import backend_pb2
from trio_sup.testing import cancel_at_every_step

SPEC = BackendSpec(
    name="listens", command=child_command("listens"), readiness=Readiness(probe="tcp", timeout=20), grace=5
)


@pytest.fixture
def quiet_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


@pytest.fixture
def nothing_left(quiet_temporary_directory: Path) -> Callable[[], Awaitable[None]]:
    """Checks that no process, descriptor, task or temporary file is more than before."""

    def state() -> tuple[object, ...]:
        gc.collect()
        files = [path for path in quiet_temporary_directory.rglob("*") if not path.is_dir()]
        return (
            set(marked_processes()),
            children(),
            len(descriptors()),
            trio.lowlevel.current_statistics().tasks_living,
            files,
        )

    before: list[tuple[object, ...]] = []

    async def check() -> None:
        if not before:
            before.append(state())
        assert state() == before[0]

    return check


@pytest.mark.slow
async def test_opening_starting_stopping_and_leaving(nothing_left: Callable[[], Awaitable[None]]) -> None:
    async def whole_life() -> None:
        async with trio_sup.open_supervisor() as sup:
            await sup.start(SPEC)
            await sup.stop("listens")

    with trio.fail_after(200):
        await nothing_left()
        assert await cancel_at_every_step(whole_life, nothing_left) > 50


async def test_start_in_a_supervisor_that_goes_on(nothing_left: Callable[[], Awaitable[None]]) -> None:
    with trio.fail_after(120):
        async with trio_sup.open_supervisor() as sup:

            async def clean() -> None:
                await sup.stop_all(force=True)
                await nothing_left()

            await clean()
            assert await cancel_at_every_step(lambda: sup.start(SPEC), clean, stride=3) > 10


async def test_stop_is_finished_whatever_step_it_is_cancelled_at(nothing_left: Callable[[], Awaitable[None]]) -> None:
    with trio.fail_after(120):
        async with trio_sup.open_supervisor() as sup:

            async def clean() -> None:
                await sup.stop_all()
                await nothing_left()

            async def start_and_stop() -> None:
                with trio.CancelScope(shield=True):
                    await sup.start(SPEC)
                await sup.stop("listens")

            await clean()
            assert await cancel_at_every_step(start_and_stop, clean, stride=5) > 10


async def test_calls_over_a_channel(nothing_left: Callable[[], Awaitable[None]]) -> None:
    store = BackendSpec(name="store", command=[sys.executable, "-m", "trio_sup.backends.store"], grace=5)
    with trio.fail_after(120):
        async with trio_sup.open_supervisor() as sup:
            await sup.start(store)

            async def call() -> None:
                async with sup.channel("store#0") as channel:
                    reply = await channel.unary_unary(
                        "/backend.Backend/Health", backend_pb2.HealthMessage(), backend_pb2.Reply, timeout=5
                    )
                assert reply.message == b"OK"

            async def usable() -> None:
                await call()
                await nothing_left()

            await usable()
            assert await cancel_at_every_step(call, usable) > 5


async def test_start_stop_and_channels_from_a_task_older_than_the_supervisor() -> None:
    send, receive = trio.open_memory_channel[trio_sup.Supervisor](0)
    done = trio.Event()

    async def older() -> None:
        sup = await receive.receive()
        store = BackendSpec(name="store", command=[sys.executable, "-m", "trio_sup.backends.store"], grace=5)
        await sup.start(store)
        async with sup.channel("store#0") as channel:
            await channel.unary_unary(
                "/backend.Backend/Health", backend_pb2.HealthMessage(), backend_pb2.Reply, timeout=5
            )
        await sup.stop("store")
        done.set()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(older)
            await trio.testing.wait_all_tasks_blocked()
            async with trio_sup.open_supervisor() as sup:
                await send.send(sup)
                await done.wait()
