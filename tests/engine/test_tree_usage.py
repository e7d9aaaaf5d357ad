"""What real processes use, and whether that is taken for headway."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import attrs
import pytest
import trio

from tests.bridge.peers import peer
from tests.conftest import child_command
from trio_sup import BackendSpec, ProcessKey
from trio_sup._progress import Progress, Usage
from trio_sup.engine import _tree_usage
from trio_sup.engine._linux_child import LinuxChild
from trio_sup.engine._linux_system import LinuxSystem
from trio_sup.engine._tree_usage import exact_usage_of, usage_of
from trio_sup.guard._proc import scan
from trio_sup.strategies import Launch

pytestmark = pytest.mark.usefixtures("nothing_survives")

MIB = 2**20


@attrs.frozen
class Worker:
    """A child that works when it is told to, launched as a supervisor does it."""

    child: LinuxChild
    stream: trio.SocketStream

    async def told(self, command: str) -> None:
        """Have it do something, and wait until it is done."""
        await self.stream.send_all(command.encode() + b"\n")
        assert await self.stream.receive_some() == b"done\n"

    async def usage(self, *, exact_memory: bool = False) -> Usage:
        usage = await self.child.usage(exact_memory=exact_memory)
        assert usage is not None
        return usage

    async def spent_on(self, command: str, *, exact_memory: bool = False) -> Usage:
        before = await self.usage(exact_memory=exact_memory)
        await self.told(command)
        return (await self.usage(exact_memory=exact_memory)).beyond(before)


@asynccontextmanager
async def launched(command: list[str]) -> AsyncIterator[LinuxChild]:
    system = LinuxSystem()
    launch = Launch(
        key=ProcessKey("m"),
        spec=BackendSpec(name="m", command=command),
        executable=command[0],
        arguments=command,
        environment=dict(os.environ),
        cwd=None,
        port=0,
    )
    with trio.fail_after(60):
        async with system.open(lambda *_: None):
            child = system.launch(launch, 1)
            try:
                yield child
            finally:
                with trio.CancelScope(shield=True):
                    assert not (await child.end_tree(10)).survivors
                child.close()


@asynccontextmanager
async def a_worker(tmp_path: Path) -> AsyncIterator[Worker]:
    with trio.socket.socket(trio.socket.AF_UNIX) as listener:
        await listener.bind(str(tmp_path / "told"))
        listener.listen(1)
        async with launched(child_command("works_when_told", str(tmp_path / "told"))) as child:
            accepted, _ = await listener.accept()
            async with trio.SocketStream(accepted) as stream:
                assert await stream.receive_some() == b"ready\n"
                yield Worker(child, stream)


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    async with a_worker(tmp_path) as told:
        yield told


@pytest.fixture
def big_file(tmp_path: Path) -> Path:
    path = tmp_path / "big"
    path.write_bytes(os.urandom(50 * MIB))
    return path


def signs_of(before: Usage, after: Usage) -> frozenset[str]:
    return Progress(0.0, before, 0).look(1.0, after, 0)


# ---- what is counted


async def test_one_that_computes_uses_the_processor(worker: Worker) -> None:
    spent = await worker.spent_on("compute 0.5")
    assert 0.45 <= spent.cpu_seconds <= 1.0


async def test_one_that_reads_a_file_again_reads_although_the_disk_does_not(worker: Worker, big_file: Path) -> None:
    await worker.told(f"read {big_file}")
    spent = await worker.spent_on(f"read {big_file}")
    assert 50 * MIB <= spent.read_bytes < 52 * MIB


@pytest.mark.parametrize("exact_memory", [False, True])
async def test_one_that_grows_holds_more(worker: Worker, exact_memory: bool) -> None:
    spent = await worker.spent_on("grow 50", exact_memory=exact_memory)
    assert 49 * MIB <= spent.memory_bytes < 55 * MIB  # a page shared with strangers counts for less


@pytest.mark.parametrize("exact_memory", [False, True])
async def test_a_mapped_file_is_memory_and_counts_once(worker: Worker, big_file: Path, exact_memory: bool) -> None:
    spent = await worker.spent_on(f"map {big_file}", exact_memory=exact_memory)
    assert 49 * MIB <= spent.memory_bytes < 55 * MIB  # a page shared with strangers counts for less
    spent = await worker.spent_on(f"child map {big_file}", exact_memory=exact_memory)
    assert spent.memory_bytes < 15 * MIB, "the pages are the same"


async def test_the_exact_measure_counts_what_a_fork_shares_once(worker: Worker) -> None:
    await worker.told("grow 50")
    spent = await worker.spent_on("child compute 0", exact_memory=True)
    assert spent.memory_bytes < 10 * MIB


async def test_the_work_of_a_child_in_a_session_of_its_own_counts(worker: Worker, big_file: Path) -> None:
    assert (await worker.spent_on("child compute 0.3")).cpu_seconds >= 0.25
    assert (await worker.spent_on("child child compute 0.3")).cpu_seconds >= 0.25
    assert (await worker.spent_on(f"child read {big_file}")).read_bytes >= 50 * MIB
    assert (await worker.spent_on("child grow 50")).memory_bytes >= 50 * MIB


async def test_the_work_of_a_child_that_has_ended_is_not_lost(worker: Worker, big_file: Path) -> None:
    assert (await worker.spent_on("brief compute 0.3")).cpu_seconds >= 0.25
    assert (await worker.spent_on(f"brief read {big_file}")).read_bytes >= 50 * MIB


def test_our_own_usage_agrees_with_what_the_system_says_otherwise() -> None:
    said = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = sum(usage.ru_utime + usage.ru_stime for usage in said)
    usage = usage_of([os.getpid()], exact_memory=False)
    assert usage.cpu_seconds == pytest.approx(seconds, abs=0.1)
    resident = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    assert usage.memory_bytes == pytest.approx(int(resident.split()[1]) * 1024, rel=0.05)
    exact = usage_of([os.getpid()], exact_memory=True)
    assert 0 < exact.memory_bytes <= usage.memory_bytes


async def test_several_processes_are_summed_up(worker: Worker) -> None:
    await worker.told("child compute 0.3")
    await worker.told("compute 0.2")
    pids = worker.child.tree_pids()
    assert len(pids) == 2
    one, other = (usage_of([pid], exact_memory=True) for pid in pids)
    both = await worker.usage(exact_memory=True)
    assert both.cpu_seconds == pytest.approx(one.cpu_seconds + other.cpu_seconds, abs=0.03)
    assert both.read_bytes == one.read_bytes + other.read_bytes
    assert both.memory_bytes == pytest.approx(one.memory_bytes + other.memory_bytes, rel=0.01)


# ---- what cannot be looked at


@pytest.mark.parametrize("exact_memory", [False, True])
def test_one_that_has_ended_is_left_out(exact_memory: bool) -> None:
    with open("/proc/sys/kernel/pid_max") as file:
        nobody = int(file.read())
    assert usage_of([nobody], exact_memory=exact_memory) == Usage()
    assert usage_of([], exact_memory=exact_memory) == Usage()
    assert usage_of([nobody, os.getpid()], exact_memory=exact_memory).memory_bytes > 0


@pytest.mark.parametrize("exact_memory", [False, True])
def test_a_zombie_uses_no_memory(exact_memory: bool) -> None:
    pid = os.posix_spawn(sys.executable, [sys.executable, "-S", "-c", ""], os.environ)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    try:
        assert usage_of([pid], exact_memory=exact_memory).memory_bytes == 0
    finally:
        os.waitpid(pid, 0)


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_without_descriptors_nothing_is_claimed(worker: Worker) -> None:
    with no_descriptors_left():
        with pytest.raises(OSError, match="Too many open files"):
            usage_of([os.getpid()], exact_memory=False)
        assert await worker.child.usage() is None
        assert await worker.child.usage(exact_memory=True) is None
    assert await worker.child.usage() is not None


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become another user")
def test_of_a_process_of_another_user_what_can_be_seen_counts() -> None:
    reads, writes = os.pipe()
    pid = os.getpid()
    other = os.fork()
    if not other:
        os.setgroups([])
        os.setuid(65534)
        usage = usage_of([pid], exact_memory=True)
        os.write(writes, f"{usage.cpu_seconds > 0} {usage.memory_bytes > MIB} {usage.read_bytes == 0}".encode())
        os._exit(0)
    os.close(writes)
    with open(reads, "rb") as pipe:
        assert pipe.read() == b"True True True"
    os.waitpid(other, 0)


# ---- exact memory, in a thread


async def test_an_exact_measure_that_takes_too_long_gives_way_to_the_estimate(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    limiter = trio.CapacityLimiter(1)
    pids = worker.child.tree_pids()
    monkeypatch.setattr(_tree_usage, "EXACT_TIMEOUT", 0.05)
    # Somebody else is stuck in the only place there is.
    async with limiter:
        usage = await exact_usage_of(pids, limiter)
    assert usage == usage_of(pids, exact_memory=False)
    assert limiter.borrowed_tokens == 0


NO_THREADS = """
import os, threading, trio
from trio_sup.engine._tree_usage import exact_usage_of

threading.stack_size(2**46)  # more than there is room for
print(trio.run(exact_usage_of, [os.getpid()], trio.CapacityLimiter(1)).memory_bytes)
"""


def test_without_threads_the_estimate_has_to_do() -> None:
    told = subprocess.run([sys.executable, "-c", NO_THREADS], capture_output=True, text=True, check=True, timeout=60)
    assert int(told.stdout) > MIB


async def test_an_exact_measure_does_not_keep_the_others_waiting(worker: Worker) -> None:
    await worker.told("grow 400")
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_turns)
        await exact_usage_of([worker.child.pid] * 10, trio.CapacityLimiter(1))
        nursery.cancel_scope.cancel()
    assert turns > 5, "it is measured on the one thread that all share"


async def test_cancelled_it_ends_at_once(worker: Worker) -> None:
    await worker.told("grow 200")
    with trio.move_on_after(0.001) as cancel_scope:
        await exact_usage_of([worker.child.pid] * 50, trio.CapacityLimiter(1))
    assert cancel_scope.cancelled_caught


# ---- headway

SECONDS = 1.5
"""For how long the idle ones are watched."""


async def signs_within(pids: list[int], seconds: float) -> frozenset[str]:
    before = usage_of(pids, exact_memory=False)
    await trio.sleep(seconds)
    return signs_of(before, usage_of(pids, exact_memory=False))


async def test_one_that_waits_makes_no_headway(worker: Worker) -> None:
    assert await signs_within(worker.child.tree_pids(), SECONDS) == frozenset()


@pytest.mark.parametrize("name", ["grpc_core", "grpc_grpclib"])
async def test_an_idle_server_makes_no_headway(name: str) -> None:
    async with peer(name):
        (pid,) = (process.pid for process in scan() if process.ppid == os.getpid())
        assert await signs_within([pid], SECONDS) == frozenset()


async def test_one_that_was_stopped_at_work_makes_no_headway(worker: Worker) -> None:
    await worker.told("spin")
    pids = worker.child.tree_pids()
    assert len(pids) == 2
    await computes(pids)
    os.killpg(worker.child.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, worker.child.pid, os.WSTOPPED | os.WNOWAIT)
    await all_stopped(pids)
    assert await signs_within(pids, SECONDS) == frozenset()
    os.killpg(worker.child.pid, signal.SIGCONT)
    await computes(pids)


async def computes(pids: list[int]) -> None:
    """Return when they have computed as much as shows, however long that takes them on a crowded machine."""
    before = usage_of(pids, exact_memory=False)
    while "cpu" not in signs_of(before, usage_of(pids, exact_memory=False)):
        await trio.sleep(0.05)


async def all_stopped(pids: list[int]) -> None:
    while any(process.state != "T" for process in scan() if process.pid in pids):
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(("command", "sign"), [("compute 0.5", "cpu"), ("grow 50", "memory"), ("read {}", "reads")])
async def test_each_kind_of_work_is_a_sign(worker: Worker, big_file: Path, command: str, sign: str) -> None:
    before = await worker.usage()
    await worker.told(command.format(big_file))
    assert sign in signs_of(before, await worker.usage())


async def test_the_cost_is_as_stated(worker: Worker) -> None:
    pids = [worker.child.pid] * 100
    costs = []
    for _ in range(10):
        began = trio.current_time()
        usage_of(pids, exact_memory=False)
        costs.append((trio.current_time() - began) / 100)
    assert min(costs) < 250e-6, "stated are 20 µs; a busy machine takes longer"
