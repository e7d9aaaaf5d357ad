"""The writer of one standard stream, on real pipes."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from trio_sup import ProcessKey
from trio_sup.engine import Output
from trio_sup.runner._lines import Line, Prefixed, Renderer
from trio_sup.runner._writer import OWN, Writer

KEY = ProcessKey("a")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    for descriptor in (read, write):
        try:
            os.close(descriptor)
        except OSError:
            continue  # the test closed it


def say(writer: Writer, text: str) -> None:
    writer.put(OWN, Line(text), len(text))


async def test_everything_is_written_in_order_and_the_last_line_too(pipe: tuple[int, int]) -> None:
    writer = Writer(pipe[1], Renderer(Prefixed()), pytest.fail)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.run)
            say(writer, "one")
            writer.put(KEY, Output(KEY, 1, "stdout", b"unfinished"), 10)
            assert await writer.finish(5)
    assert os.read(pipe[0], 100) == b"one\na#0 | unfinished\n"


async def test_lines_wait_while_no_thread_can_be_started(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_sync, refusals = trio.to_thread.run_sync, 2

    async def refuse_twice(*arguments: Any, **options: Any) -> Any:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise RuntimeError("can't start new thread")
        return await run_sync(*arguments, **options)

    monkeypatch.setattr(trio.to_thread, "run_sync", refuse_twice)
    writer = Writer(pipe[1], Renderer(Prefixed()), pytest.fail)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.run)
            say(writer, "one")
            assert await writer.finish(5)
    assert os.read(pipe[0], 100) == b"one\n"


async def test_a_pipe_nobody_reads_keeps_neither_the_writers_user_nor_its_end_waiting(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"x" * fcntl.fcntl(pipe[1], fcntl.F_GETPIPE_SZ))
    writer = Writer(pipe[1], Renderer(Prefixed()), pytest.fail, limit=100_000)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.run)
            for _ in range(10_000):
                writer.put(KEY, Output(KEY, 1, "stdout", b"x" * 99 + b"\n"), 100)
                await trio.lowlevel.checkpoint()
            assert not await writer.finish(0.1)
            nursery.cancel_scope.cancel()
    os.close(pipe[0])  # lets the abandoned thread go


async def test_a_reader_that_comes_late_is_told_how_much_it_missed(pipe: tuple[int, int]) -> None:
    writer = Writer(pipe[1], Renderer(Prefixed()), pytest.fail, limit=100_000)
    got = b""
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.run)
            for _ in range(10_000):
                writer.put(KEY, Output(KEY, 1, "stdout", b"x" * 99 + b"\n"), 100)
            say(writer, "the end")
            nursery.start_soon(writer.finish, 5)
            while not got.endswith(b"the end\n"):
                got += await trio.to_thread.run_sync(os.read, pipe[0], 65536)
    lines = got.decode().splitlines()
    (note,) = [line for line in lines if "…" in line]
    missing = int(note.split()[2])
    assert missing > 0
    assert missing + 100 * sum(line.endswith("x" * 99) for line in lines) == 1_000_000


@pytest.mark.parametrize("blocking", [True, False])
async def test_a_slow_reader_gets_everything_whether_or_not_the_pipe_blocks(
    pipe: tuple[int, int], blocking: bool
) -> None:
    os.set_blocking(pipe[1], blocking)
    writer = Writer(pipe[1], Renderer(Prefixed()), pytest.fail)
    got = b""
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.run)
            for number in range(5000):
                say(writer, f"{number:0100}")
            nursery.start_soon(writer.finish, 10)
            while not got.endswith(b"4999\n"):
                got += await trio.to_thread.run_sync(os.read, pipe[0], 65536)
    assert got.decode().splitlines() == [f"{number:0100}" for number in range(5000)]


async def test_a_closed_pipe_is_told_once_and_then_ignored(pipe: tuple[int, int]) -> None:
    reasons: list[str] = []
    writer = Writer(pipe[1], Renderer(Prefixed()), reasons.append)
    os.close(pipe[0])
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.run)
            for _ in range(3):
                say(writer, "anybody?")
                await trio.testing.wait_all_tasks_blocked(0.02)
            assert await writer.finish(5)
    assert reasons == ["Broken pipe"]


async def test_a_full_disk_is_told_once_and_tried_again() -> None:
    reasons: list[str] = []
    descriptor = os.open(Path("/dev/full"), os.O_WRONLY)
    writer = Writer(descriptor, Renderer(Prefixed()), reasons.append)
    read, write = os.pipe()
    os.set_blocking(read, False)
    try:
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(writer.run)
                for _ in range(3):
                    say(writer, "no room")
                    await trio.testing.wait_all_tasks_blocked(0.02)
                os.dup2(write, descriptor)
                say(writer, "room")
                assert await writer.finish(5)
        assert os.read(read, 100).endswith(b"room\n")
    finally:
        for each in (descriptor, read, write):
            os.close(each)
    assert reasons == ["No space left on device"]
