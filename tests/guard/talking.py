"""Processes that tell the test what they did, on one pipe that everything below them holds open."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from trio_sup.guard._proc import Process, kill_exactly, read_process, scan, with_descendants

CHILDREN = Path(__file__).parent / "children"


_numbers = itertools.count()


def new_id() -> str:
    """The id of a supervisor that nobody else uses, in other runs of the tests neither: its guard kills by it."""
    return f"test-{os.getpid()}-{next(_numbers)}-"


def child(name: str, *arguments: str) -> list[str]:
    """The command of the child that is named for its vice."""
    # -E: with PYTHONUNBUFFERED a line is written in pieces, and lines of several processes would mix.
    return [sys.executable, "-E", str(CHILDREN / f"{name}.py"), *arguments]


class Talker:
    """A process, what it and its descendants say, and when the last of them has ended."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self.process = process
        self.pid = process.pid
        self._stream = trio.lowlevel.FdStream(os.dup(process.stdout.fileno()))
        process.stdout.close()
        self._data = b""
        self.lines: list[list[str]] = []

    async def said(self, word: str) -> list[str]:
        """The words that follow *word* in the first line, not yet asked for, that begins with it."""
        while True:
            for line in self.lines:
                if line[:1] == [word]:
                    self.lines.remove(line)
                    return line[1:]
            assert await self._more(), f"everything ended without saying {word!r}; it said {self.lines}"

    async def process_said(self, word: str) -> Process:
        """The process whose pid follows *word*."""
        process = read_process(int((await self.said(word))[0]))
        assert process is not None
        return process

    async def all_gone(self, seconds: float = 2) -> None:
        """Return when no process holds the pipe any more, nor can say anything."""
        with trio.fail_after(seconds):
            while await self._more():
                pass

    async def status(self) -> int:
        """Wait for its own end; its exit code, or -n."""
        pidfd = os.pidfd_open(self.pid)
        try:
            await trio.lowlevel.wait_readable(pidfd)
        finally:
            os.close(pidfd)
        return self.process.wait()

    async def _more(self) -> bool:
        data = await self._stream.receive_some(65536)
        *lines, self._data = (self._data + data).split(b"\n")
        self.lines += [line.decode().split() for line in lines]
        return bool(data)

    async def close(self) -> None:
        """End it and what is below it, also when a test has failed half-way."""
        for each in with_descendants([each for each in scan() if each.pid == self.pid], scan()):
            kill_exactly(each, signal.SIGKILL)
        self.process.kill()
        self.process.wait(timeout=10)
        await self._stream.aclose()


@asynccontextmanager
async def talker(command: Sequence[str], **options: Any) -> AsyncIterator[Talker]:
    """Run *command* for the length of the block; at its end it is killed, with all that descends from it."""
    started = Talker(subprocess.Popen(command, stdout=subprocess.PIPE, **{"stdin": subprocess.DEVNULL, **options}))
    try:
        with trio.fail_after(30):
            yield started
    finally:
        await started.close()


def is_alive(process: Process) -> bool:
    now = read_process(process.pid)
    return now is not None and now.started == process.started and now.alive


def end(process: Process) -> None:
    if is_alive(process):
        os.kill(process.pid, signal.SIGKILL)
