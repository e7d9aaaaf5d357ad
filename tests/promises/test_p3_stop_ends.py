"""P3, stop ends: within its bound from every phase, whatever the backend or a policy does, and it tells the truth.

The tree is enumerated by its four names (session, group, recorded descendants, marker) and proven gone; what survives
is named with its pid and command, watched by descriptor, and keeps its port (see `tests/processes/test_survivors.py`,
too).
"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

import trio_sup
from tests.conftest import next_of
from tests.processes.powerless import run_powerless
from trio_sup import BackendSpec, events
from trio_sup.engine._ending import KILL_TIMEOUT

from .backends import alive, spec_of, tree_of

pytestmark = pytest.mark.usefixtures("nothing_survives")

KINDS = ["plain", "grandchild", "own_group", "own_session", "ignoring", "stopped", "forking", "cleared"]
KINDS += ["daemon", "threaded_daemon", "cleared_grandchild", "shedding"]


@pytest.fixture
def held(tmp_path: Path) -> Path:
    path = tmp_path / "held"
    os.mkfifo(path)
    return path


def is_held(fifo: Path) -> bool:
    """Whether anybody who opened the FIFO, or descends from one who did, is still there."""
    descriptor = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.read(descriptor, 1) != b""
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)


@asynccontextmanager
async def escaping(held: Path, *options: str, **fields: Any) -> AsyncIterator[BackendSpec]:
    """A specification whose backend holds *held*, with all its descendants."""
    # Held for reading: whoever opens it for writing would wait otherwise.
    reader = os.open(held, os.O_RDONLY | os.O_NONBLOCK)
    try:
        yield spec_of("escapes", "--held-by", str(held), *options, **fields)
    finally:
        os.close(reader)


# ---- whatever the backend does


# A leader that ends by itself leaves those unknown that have shed every other name: nobody has looked before.
WAYS = [
    (how, kind)
    for how in ("politely", "forced", "after a crash")
    for kind in KINDS
    if how != "after a crash" or kind not in ("cleared", "cleared_grandchild", "shedding")
]


@pytest.mark.parametrize(("how", "kind"), WAYS)
async def test_when_a_stop_says_gone_all_of_the_tree_is(held: Path, how: str, kind: str) -> None:
    ignores = ["--ignores"] if kind == "cleared_grandchild" else []
    with trio.fail_after(60):
        async with escaping(held, "--with", kind, *ignores, grace=0.3) as spec, trio_sup.open_supervisor() as sup:
            backend = await sup.start(spec)
            assert is_held(held)
            if how == "after a crash":
                stream = sup.events()
                assert backend.pid is not None
                os.kill(backend.pid, signal.SIGKILL)
                gone = await next_of(stream, events.BackendGone)
                assert gone.report is not None
            else:
                (report,) = await sup.stop("escapes", force=how == "forced")
                assert report.gone
            assert not is_held(held)
            assert sup.backends == ()


async def test_one_that_is_stopped_while_it_stops_meets_sigkill(held: Path) -> None:
    with trio.fail_after(60):
        async with (
            escaping(held, "--with", "plain", "--ignores", grace=0.5) as spec,
            trio_sup.open_supervisor() as sup,
            trio.open_nursery() as nursery,
        ):
            stream = sup.events()
            backend = await sup.start(spec)
            assert backend.pid is not None
            nursery.start_soon(sup.stop, "escapes")
            await next_of(stream, events.BackendStopping)
            os.kill(backend.pid, signal.SIGSTOP)
            gone = await next_of(stream, events.BackendGone)
            assert gone.report is not None
            assert gone.report.killed
            assert gone.report.stop_seconds < 0.5 + KILL_TIMEOUT
            assert not is_held(held)


async def test_one_that_dies_while_it_stops_is_no_problem() -> None:
    with trio.fail_after(30):
        async with trio_sup.open_supervisor() as sup, trio.open_nursery() as nursery:
            stream = sup.events()
            backend = await sup.start(spec_of("ignores_sigterm", grace=25))
            assert backend.pid is not None
            nursery.start_soon(sup.stop, "ignores-sigterm")
            await next_of(stream, events.BackendStopping)
            os.kill(backend.pid, signal.SIGSEGV)
            gone = await next_of(stream, events.BackendGone)
            assert gone.report is not None
            assert not gone.report.killed
            assert str(gone.report.status) == "killed by SIGSEGV"


# ---- from every phase


async def test_while_it_waits() -> None:
    class Busy:
        @asynccontextmanager
        async def hold(self, backend: str, *, shared: bool) -> AsyncIterator[None]:
            await trio.sleep_forever()
            yield

    async def start(sup: trio_sup.Supervisor) -> None:
        with pytest.raises(trio_sup.StoppedDuringStartup):
            await sup.start(spec_of("listens"))

    with trio.fail_after(30):
        async with trio_sup.open_supervisor(install_lock=Busy()) as sup, trio.open_nursery() as nursery:
            stream = sup.events()
            nursery.start_soon(start, sup)
            await next_of(stream, events.BackendWaiting)
            (report,) = await sup.stop("listens")
            assert report.gone


async def test_while_it_starts_and_is_stopped_by_a_signal(held: Path) -> None:
    async def start(sup: trio_sup.Supervisor, spec: BackendSpec) -> None:
        with pytest.raises(trio_sup.StoppedDuringStartup):
            await sup.start(spec)

    with trio.fail_after(30):
        async with (
            escaping(held, "--with", "own_session", "--never", grace=0.3) as spec,
            trio_sup.open_supervisor() as sup,
            trio.open_nursery() as nursery,
        ):
            stream = sup.events()
            nursery.start_soon(start, sup, spec)
            started = await next_of(stream, events.BackendStarting)
            os.kill(started.pid, signal.SIGSTOP)
            began = trio.current_time()
            (report,) = await sup.stop("escapes")
            assert report.gone
            assert trio.current_time() - began < 0.3 + 1 + KILL_TIMEOUT
            assert not is_held(held)


async def test_while_it_stops_everybody_joins_and_a_forced_one_hurries() -> None:
    with trio.fail_after(30):
        async with trio_sup.open_supervisor() as sup, trio.open_nursery() as nursery:
            stream = sup.events()
            await sup.start(spec_of("ignores_sigterm", grace=25))
            reports: list[trio_sup.StopReport] = []

            async def stop() -> None:
                reports.extend(await sup.stop("ignores-sigterm"))

            nursery.start_soon(stop)
            nursery.start_soon(stop)
            await next_of(stream, events.BackendStopping)
            began = trio.current_time()
            reports.extend(await sup.stop("ignores-sigterm", force=True))
            await next_of(stream, events.BackendGone)
            assert trio.current_time() - began < KILL_TIMEOUT
        assert len(reports) == 3
        assert reports[0] == reports[1] == reports[2]


# ---- whatever a policy does


class Policy:
    """A stop policy that does what its name says."""

    def __init__(self, vice: str) -> None:
        self.vice = vice

    def budget(self, spec: BackendSpec) -> float:
        match self.vice:
            case "lies about its budget":
                return math.inf
            case "has no budget":
                raise RuntimeError("no budget")
        return 0.3

    async def stop(self, target: Any) -> None:
        match self.vice:
            case "hangs":
                await trio.sleep_forever()
            case "shields":
                with trio.CancelScope(shield=True):
                    await trio.sleep(1.5)
            case "raises":
                raise RuntimeError("broken")
            case "raises a group":
                raise ExceptionGroup("both", [RuntimeError("one"), OSError("two")])
            case "lies":
                return  # as if all were well
            case "steals the status":
                os.kill(target.pid, signal.SIGKILL)
                os.waitpid(target.pid, 0)


VICES = ["hangs", "shields", "raises", "raises a group", "lies", "steals the status", "lies about its budget"]
VICES += ["has no budget"]


@pytest.mark.parametrize("vice", VICES)
async def test_a_policy_changes_neither_the_bound_nor_the_truth(held: Path, vice: str) -> None:
    with trio.fail_after(60):
        async with (
            escaping(held, "--with", "own_session,daemon,cleared", "--ignores", grace=0.3) as spec,
            trio_sup.open_supervisor(stop_policy=Policy(vice)) as sup,
        ):
            stream = sup.events()
            backend = await sup.start(spec)
            assert backend.pid is not None
            tree = tree_of(backend.pid)
            began = trio.current_time()
            (report,) = await sup.stop("escapes")
            # The built-in policy that takes over has a budget as well.
            assert trio.current_time() - began < 0.3 + (0.3 + 1) + KILL_TIMEOUT
            assert report.gone
            assert alive(tree) == []
            assert not is_held(held)
        named = [event async for event in stream if isinstance(event, events.PluginFailed)]
    assert bool(named) == (vice not in ("lies", "steals the status"))


async def test_a_policy_that_never_lets_go_does_not_delay_the_next_process() -> None:
    with trio.fail_after(60):
        async with trio_sup.open_supervisor(stop_policy=Policy("shields")) as sup:
            spec = spec_of("ignores_sigterm", grace=0.3)
            stream = sup.events()
            await sup.start(spec)
            await sup.stop("ignores-sigterm")
            await sup.start(spec)
            stuck = await next_of(stream, events.PluginStuck)
            assert "ignores-sigterm#0" in stuck.task


# ---- what survives

PROGRAM = """
import socket, sys, trio, trio_sup
from tests.promises.test_p3_stop_ends import Policy
from trio_sup import events
from trio_sup.engine import _ending

_ending.KILL_TIMEOUT = 1  # seconds: it cannot be ended anyway

async def main():
    spec = trio_sup.BackendSpec(
        name="stubborn",
        command=["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "sh", "-c",
                 "echo $$ > $0; exec sleep 300", "pid-{port}"],
        readiness=trio_sup.Readiness(probe={"strategy": "exec", "command": ["test", "-s", "pid-{port}"]}),
        grace=0.2,
        stop_policy=Policy(sys.argv[1]),
    )
    async with trio_sup.open_supervisor(shutdown_timeout=1) as sup:
        backend = await sup.start(spec)
        began = trio.current_time()
        try:
            await sup.stop("stubborn")
        except trio_sup.StopFailed as error:
            print("failed:", error)
        print("in time:", trio.current_time() - began < (0.2 + 1) + 0.3 + 1 + 2)
        (now,) = sup.backends
        print(now.phase.name, sup.get_address(now.key), now.port == backend.port, now.survivors[0].pid == backend.pid)
        print("named:", now.survivors[0].command)
        with socket.socket() as stranger:
            try:
                stranger.bind(("127.0.0.1", backend.port))
            except OSError:
                print("the port is kept")
        try:
            await sup.start(spec)
        except trio_sup.StopFailed:
            print("no second process")
        stream = sup.events()
        print("kill", backend.pid, flush=True)
        async for event in stream:
            if isinstance(event, events.BackendGone):
                print("gone", flush=True)
                break

trio.run(main)
"""


@pytest.mark.needs("setpriv")
@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to make a process of another user")
@pytest.mark.parametrize(
    "vice", ["hangs", *(pytest.param(vice, marks=pytest.mark.slow) for vice in ("raises", "lies"))]
)
def test_a_policy_changes_nothing_of_what_is_said_of_survivors(tmp_path: Path, vice: str) -> None:
    text = run_powerless(PROGRAM, tmp_path, vice)
    assert "not permitted to signal it" in text
    assert "in time: True" in text
    assert "STOP_FAILED None True True" in text
    assert "named: sleep 300" in text
    assert "the port is kept" in text
    assert "no second process" in text
    assert text.endswith("gone\n")
