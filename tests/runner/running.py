"""The `trio-sup` command as a real process, and what the tests need to know of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

TRIO_SUP = (sys.executable, "-m", "trio_sup")
TALKS = Path(__file__).parent / "children" / "talks.py"
TCP = 'readiness = { probe = "tcp", timeout = "20s" }'


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    """This process's environment without what would change a run, and with a state directory of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRIO_SUP_")}
    return {**kept, "XDG_STATE_HOME": str(tmp_path / "state"), **more}


def command_of(*command: object) -> str:
    """A `command = …` line of a configuration."""
    return f"command = [{', '.join(repr(str(part)) for part in command)}]"


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@attrs.define(eq=False)
class Running:
    """A process of ours, with what it wrote so far."""

    process: trio.Process
    stdout: bytes = b""
    stderr: bytes = b""
    news: trio.Event = attrs.field(factory=trio.Event)

    @property
    def supervisor(self) -> int:
        """The one child of the guard that has not been handed over to it by a dying parent."""
        return children_of(self.process.pid)[0]

    async def says(self, stream: str, text: str, *, times: int = 1) -> str:
        """Wait until *text* was written to *stream* so often; returns the last line with it."""
        while True:
            lines = [line for line in getattr(self, stream).decode().splitlines() if text in line]
            if len(lines) >= times:
                return str(lines[-1])
            self.news = trio.Event()
            await self.news.wait()

    async def collect(self, stream: str) -> None:
        pipe = getattr(self.process, stream)
        async for data in pipe:
            setattr(self, stream, getattr(self, stream) + data)
            self.news.set()

    async def end(self) -> None:
        """End it whatever state it is in, backends included."""
        with trio.move_on_after(10, shield=True):
            while self.process.returncode is None:
                # Three times: politely, without grace, at once.
                self.process.send_signal(signal.SIGTERM)
                with trio.move_on_after(0.3):
                    await self.process.wait()
        assert self.process.returncode is not None, self.stderr.decode()


@asynccontextmanager
async def running(
    *arguments: str, env: Mapping[str, str], read_stdout: bool = True, via: Sequence[str] = (), **options: Any
) -> AsyncIterator[Running]:
    """Run ``trio-sup`` with *arguments* for the length of the block."""
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    process = await trio.lowlevel.open_process([*via, *TRIO_SUP, *arguments], env=env, **options)
    run = Running(process)
    async with trio.open_nursery() as nursery:
        if read_stdout and process.stdout is not None:
            nursery.start_soon(run.collect, "stdout")
        if process.stderr is not None:
            nursery.start_soon(run.collect, "stderr")
        try:
            yield run
        finally:
            await run.end()
            if not read_stdout:
                await trio.aclose_forcefully(process.stdout) if process.stdout else None
