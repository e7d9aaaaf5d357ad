"""What real processes write, whatever they do with their output."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

import trio_sup
from tests.conftest import child_command, next_of
from tests.logs.test_log_file import contents
from trio_sup import BackendSpec, LinesLost, LogLine, LogSettings, Readiness, events
from trio_sup.engine._linux_child import LinuxChild
from trio_sup.engine._linux_system import PUMPS_AT_A_TIME, LinuxSystem
from trio_sup.engine._log_reader import LogFollower
from trio_sup.strategies import Launch

pytestmark = pytest.mark.usefixtures("nothing_survives")

TCP = Readiness(probe="tcp", timeout=20)
AT_ONCE = Readiness(probe={"strategy": "exec", "command": ["true"]})


def spec_of(child: str, *arguments: str, **fields: Any) -> BackendSpec:
    fields.setdefault("readiness", TCP)
    return BackendSpec(name=child.replace("_", "-"), command=child_command(child, *arguments), **fields)


def launch_of(program: str, *arguments: str) -> Launch:
    """What is executed, for a launch without a supervisor."""
    return Launch(
        key=trio_sup.ProcessKey(program),
        spec=BackendSpec(name=program, command=[program]),
        executable=f"/bin/{program}",
        arguments=[program, *arguments],
        environment={"PATH": os.environ["PATH"]},
        cwd=None,
        port=0,
    )


def shell(script: str, **fields: Any) -> BackendSpec:
    """A backend that counts as ready at once and runs *script*; the address is its ``$0``."""
    fields.setdefault("readiness", AT_ONCE)
    return BackendSpec(name="shell", command=["sh", "-c", script, "{address}"], grace=0.2, **fields)


async def line_with(follower: LogFollower, text: str) -> LogLine:
    async for line in follower:
        if isinstance(line, LogLine) and text in line.text:
            return line
    raise AssertionError(f"the supervisor ended before {text!r}")


# ---- pumps end with the tree


async def test_one_that_closes_its_stdout_goes_on_and_its_stderr_is_read() -> None:
    with trio.fail_after(20):
        async with trio_sup.open_supervisor() as sup:
            backend = await sup.start(spec_of("closes_its_output"))
            follower = sup.logs(backend.key, follow=True)
            await line_with(follower, "still here")
            with socket.create_connection(("127.0.0.1", backend.port or 0), timeout=5):
                line = await line_with(follower, "connected")
            assert line.stream == "stderr"
            assert sup.is_running(backend.key)
            assert [line.text for line in sup.logs(backend.key) if line.stream == "stdout"][1:] == ["goodbye"]
            (report,) = await sup.stop(backend.key)
            assert report.gone


async def test_a_process_that_has_escaped_with_the_output_keeps_nobody_waiting() -> None:
    escaped = 0
    try:
        with trio.fail_after(20):
            async with trio_sup.open_supervisor() as sup:
                backend = await sup.start(spec_of("leaves_its_output_open"))
                line = await line_with(sup.logs(backend.key, follow=True), "escaped")
                escaped = int(line.text.split()[1])
                with trio.fail_after(5):
                    (report,) = await sup.stop(backend.key)
                assert report.gone
                os.kill(escaped, 0)  # it lives, and has the output open
                assert sup.logs(backend.key)[0].text == line.text
    finally:
        if escaped:
            with suppress(ProcessLookupError):
                os.kill(escaped, signal.SIGKILL)


async def test_what_is_in_the_pipe_when_a_process_dies_is_kept() -> None:
    # As much as a pipe holds, and dead before anybody reads.
    script = "head -c 65000 /dev/zero | tr '\\0' x; echo; echo unfinished-on-purpose | tr -d '\\n' >&2; kill -9 $$"
    with trio.fail_after(20):
        async with trio_sup.open_supervisor() as sup:
            with pytest.raises(trio_sup.DiedDuringStartup) as raised:
                await sup.start(shell(script, readiness=TCP))
            assert raised.value.stderr_tail == "unfinished-on-purpose"
            texts = [line.text for line in sup.logs("shell#0")]
    assert sorted(texts) == ["unfinished-on-purpose", "x" * 65000]


async def test_the_last_read_takes_all_that_is_there_and_waits_for_nobody() -> None:
    data = b""

    def take(more: bytes) -> None:
        nonlocal data
        data += more

    with trio.fail_after(20):
        system = LinuxSystem()
        async with system.open(lambda pid, replacement: None):
            # Its own child keeps the pipe open.
            child = system.launch(launch_of("sh", "-c", "sleep 300 & head -c 300000 /dev/zero"), 1)
            try:
                fcntl.fcntl(child._pipes["stdout"].fileno(), fcntl.F_SETPIPE_SZ, 2**20)
                await child.wait()
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await child.pump("stdout", take)
                assert scope.cancelled_caught
            finally:
                await child.end_tree(5)
                child.close()
    assert data == bytes(300_000)


# ---- floods


COUNT = 200_000
"""Lines of 100 bytes: 20 MB, which is less than the log files of one key may hold."""


async def test_of_a_flood_every_line_is_seen_or_counted_by_followers_and_in_the_file(tmp_path: Path) -> None:
    seen = lost = 0
    with trio.fail_after(60):
        async with trio_sup.open_supervisor(log_dir=tmp_path) as sup, trio.open_nursery() as nursery:

            async def follow() -> None:
                nonlocal seen, lost
                async for item in sup.logs("writes-much#0", follow=True):
                    if isinstance(item, LinesLost):
                        lost += item.lines
                        assert item.bytes == 100 * item.lines
                    else:
                        assert int(item.text) == seen + lost
                        seen += 1
                    if seen + lost == COUNT:
                        return

            nursery.start_soon(follow)
            stream = sup.events()
            await sup.start(spec_of("writes_much", str(COUNT), readiness=AT_ONCE))
            await next_of(stream, events.BackendGone)
            assert [line.text for line in sup.logs("writes-much#0")][-1] == f"{COUNT - 1:099}"
            ring = sup._logs._kept[trio_sup.ProcessKey("writes-much")].ring
            assert ring.cost <= LogSettings().ring_bytes
    assert seen > 100
    told = 0
    for path in tmp_path.iterdir():
        assert path.stat().st_size <= LogSettings().max_bytes
        for line in contents(path):
            told += 100 * ("missing" not in line) or int(line.split()[0])
    assert told == 100 * COUNT


class Turns(trio.abc.Instrument):
    """Counts what happens between two waits of the loop for the kernel."""

    def __init__(self) -> None:
        self.taken = 0
        self.most = 0
        self.total = 0

    def take(self, data: bytes) -> None:
        self.taken += 1
        self.total += len(data)
        self.most = max(self.most, self.taken)

    def before_io_wait(self, timeout: float) -> None:
        self.taken = 0


@asynccontextmanager
async def flooding(system: LinuxSystem, count: int) -> AsyncIterator[list[LinuxChild]]:
    """So many processes that flood their stdout; ended when the block is left."""
    children: list[LinuxChild] = []
    try:
        for attempt in range(count):
            children.append(system.launch(launch_of("cat", "/dev/zero"), attempt))
        yield children
    finally:
        with trio.CancelScope(shield=True):
            for child in children:
                await child.end_tree(5)
                child.close()


async def test_however_many_flood_each_time_around_the_loop_only_so_much_is_read() -> None:
    turns = Turns()
    with trio.fail_after(30):
        system = LinuxSystem()
        async with system.open(lambda pid, replacement: None), flooding(system, 12) as children:
            trio.lowlevel.add_instrument(turns)
            try:
                async with trio.open_nursery() as nursery:
                    for child in children:
                        nursery.start_soon(child.pump, "stdout", turns.take)
                    while turns.total < 100_000_000:
                        await trio.lowlevel.checkpoint()
                    most = turns.most  # at the end each makes a last read
                    nursery.cancel_scope.cancel()
            finally:
                trio.lowlevel.remove_instrument(turns)
    assert most == PUMPS_AT_A_TIME


# ---- a full disk

PROGRAM = """
import os, sys
import trio, trio_sup
from pathlib import Path
from trio_sup import events

logs, gate = Path(sys.argv[1]), Path(sys.argv[2])
script = 'i=0; while [ $i -lt 2000 ]; do echo "line $i of some length"; i=$((i+1)); done; cat $1; echo after; sleep 300'

async def main():
    spec = trio_sup.BackendSpec(
        name="talks", command=["sh", "-c", script, "{address}", str(gate)], grace=0.2,
        readiness=trio_sup.Readiness(probe={"strategy": "exec", "command": ["true"]}),
    )
    async with trio_sup.open_supervisor(log_dir=logs) as sup:
        stream = sup.events()
        await sup.start(spec)
        async for event in stream:
            if isinstance(event, events.LogFailed):
                print("failed:", event.path, event.why, flush=True)
                break
        async for line in sup.logs("talks#0", follow=True):
            if getattr(line, "text", "").startswith("line 1999 "):
                print("read on", flush=True)
                break
        await sup.start(spec, replica=1)
        print("served on", flush=True)
        (logs / "ballast").unlink()
        with gate.open("w") as opened:  # lets the backends go on
            pass
        async for line in sup.logs("talks#0", follow=True):
            if getattr(line, "text", "") == "after":
                break
        await sup.stop_all()
    more = 0
    async for event in stream:
        more += isinstance(event, events.LogFailed)
    print("failed again:", more)
    lines = [line.split(b" ", 2)[2] for line in (logs / "talks#0.log").read_bytes().splitlines()]
    notices = [int(line.split()[0]) for line in lines if line.endswith(b"bytes are missing here")]
    others = [line for line in lines if not line.endswith(b"bytes are missing here")]
    written = b"".join(b"line %d of some length\\n" % number for number in range(2000)) + b"after\\n"
    print("notices:", len(notices) > 0, "last:", lines[-1].decode())
    print("accounted for:", sum(notices) + sum(len(line) + 1 for line in others) == len(written))
    print("stamped:", all(line[:2] == b"20" for line in (logs / "talks#0.log").read_bytes().splitlines()))

trio.run(main)
"""

ON_A_SMALL_DISK = """
mount -t tmpfs -o size=1m none "$2" && head -c 1000k /dev/zero > "$2/ballast" && exec "$1" -c "$4" "$2" "$3"
"""


def may_mount() -> bool:
    with suppress(OSError, subprocess.TimeoutExpired):
        return subprocess.run(["unshare", "-rm", "true"], capture_output=True, timeout=5).returncode == 0
    return False


@pytest.mark.skipif(not may_mount(), reason="needs a namespace in which a small disk can be mounted")
def test_a_full_disk_is_told_once_serving_goes_on_and_so_does_writing(tmp_path: Path) -> None:
    disk, gate = tmp_path / "disk", tmp_path / "gate"
    disk.mkdir()
    os.mkfifo(gate)
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-ec", ON_A_SMALL_DISK, "sh", sys.executable, disk, gate, PROGRAM],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"failed: {disk}/talks#0.log No space left on device",
        "read on",
        "served on",
        "failed again: 0",
        "notices: True last: after",
        "accounted for: True",
        "stamped: True",
    ]
