"""Ctrl-C in a program that embeds a supervisor: it is raised in the program's own code, never in the engine's.

Python raises KeyboardInterrupt wherever it is just then. In the middle of a launch that would be a process that nobody
knows, and in the middle of anything else an engine that has lost its place.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
import trio
from trio._core import _ki

import trio_sup
from tests.conftest import child_command
from trio_sup import BackendSpec, Liveness, Readiness, hookimpl
from trio_sup.engine import Output
from trio_sup.events import Event

pytestmark = pytest.mark.usefixtures("nothing_survives")

ROOT = Path(__file__).parent.parent.parent
OURS = tuple(str(ROOT / "trio_sup" / room) for room in ("engine", "bridge", "defaults"))


async def read_until(stream: trio.abc.ReceiveStream, text: bytes) -> None:
    kept = b""
    while text not in kept:
        data = await stream.receive_some(65536)
        assert data, f"it ended without saying {text!r}"
        kept = kept[-1000:] + data


async def swallow(stream: trio.abc.ReceiveStream) -> None:
    async for _ in stream:
        pass


@pytest.mark.parametrize(("program", "says", "children"), [
    ("embedding", b"pid of", [f"listens+--code+{number}" for number in range(20)]),
    ("embedding", b"all ready", ["floods_stderr"]),
    ("calling", b"all ready", []),
], ids=["while it launches", "while output pours in", "while calls are made"])  # fmt: skip
@pytest.mark.parametrize("delay", [0.0, 0.02, 0.1])
async def test_a_ctrl_c_ends_everything_in_good_order(
    program: str, says: bytes, children: Sequence[str], delay: float
) -> None:
    with trio.fail_after(60):
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", f"tests.processes.{program}", *children],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        said = b""
        try:
            async with process.stdout, process.stderr, trio.open_nursery() as nursery:
                await read_until(process.stdout, says)
                nursery.start_soon(swallow, process.stdout)
                await trio.sleep(delay)  # the moment is the thing under test
                process.send_signal(signal.SIGINT)
                began = time.monotonic()
                async for data in process.stderr:
                    said += data
                await process.wait()
                took = time.monotonic() - began
        finally:
            process.kill()
            await process.wait()
    assert b"KeyboardInterrupt" in said
    assert took < 10, said.decode()


class Spawned(trio.abc.Instrument):
    """Every task that is started from the engine's files, by name, and whether Ctrl-C is kept from it."""

    def __init__(self) -> None:
        self.tasks: dict[str, bool] = {}

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        code = task.coro.cr_code
        if code.co_filename.startswith(OURS):
            self.tasks[task.name] = is_protected(code)


def is_protected(code: CodeType) -> bool:
    try:
        return _ki._CODE_KI_PROTECTION_STATUS_WMAP[code]  # there is no public way to ask this of another task
    except KeyError:
        return False


class Asked:
    """A plugin that notes where it was called whether Ctrl-C would be raised there."""

    def __init__(self) -> None:
        self.protected: dict[str, bool] = {}

    def note(self, where: str) -> None:
        self.protected[where] = trio.lowlevel.currently_ki_protected()

    @hookimpl
    def trio_sup_observers(self) -> Sequence[Any]:
        def observe(event: Event) -> None:
            self.note(f"observer of {type(event).__name__}")

        return [observe]

    @hookimpl
    def trio_sup_services(self) -> dict[str, Any]:
        async def service(supervisor: trio_sup.Supervisor) -> None:
            self.note("service")

        return {"notes": service}

    def budget(self, spec: BackendSpec) -> float:
        self.note("budget of the stop policy")
        return 5

    async def stop(self, target: Any) -> None:
        self.note("stop policy")
        target.signal()
        await target.exited()

    def on_output(self, output: Output) -> None:
        self.note("output")


async def test_no_task_of_the_engine_can_be_interrupted() -> None:
    plugin, spawned = Asked(), Spawned()
    trio.lowlevel.add_instrument(spawned)
    try:
        with trio.fail_after(30):
            async with trio_sup.open_supervisor(
                plugins=[plugin], stop_policy=plugin, on_output=plugin.on_output, memory_budget="1GiB"
            ) as sup:
                await sup.start(BackendSpec(name="a", command=child_command("raw_h2")))
                probe = {"strategy": "exec", "command": ["true"]}
                watched = BackendSpec(
                    name="b",
                    command=child_command("listens"),
                    readiness=Readiness(probe=probe, progress=["output"], timeout=20),
                    liveness=Liveness(probe=probe, period=0.05),
                    needs=["a"],
                    idle_timeout=30,
                    memory=1,
                )
                await sup.start(watched)
                async with sup.use("b"):
                    await sup.stop("a")
    finally:
        trio.lowlevel.remove_instrument(spawned)
    assert [name for name, protected in spawned.tasks.items() if not protected] == []
    assert [where for where, protected in plugin.protected.items() if not protected] == []
    assert len(spawned.tasks) > 8
    assert {"service", "output", "stop policy", "observer of BackendGone"} <= plugin.protected.keys()
