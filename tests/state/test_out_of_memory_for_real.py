"""Evidence of want of memory in exit reports, on real processes and with what the machine at hand says."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

import trio_sup
from tests.conftest import child_command, next_of
from tests.state.machine import VMSTAT, Machine
from trio_sup import BackendSpec, Cause, ExitReport, ExitStatus, Readiness, events
from trio_sup.engine import _oom
from trio_sup.engine._oom import OutOfMemoryWatch
from trio_sup.strategies import StopTarget
from trio_sup.testing import FakeBackend, FakeSystem


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


# ---- in an exit report


SPEC = BackendSpec(name="store", command=[sys.executable, "-c", "pass"])


async def test_a_hint_counts_for_an_end_that_nobody_wished_for(autojump_clock: MockClock) -> None:
    system = FakeSystem(FakeBackend(stderr=b"MemoryError\n", exit_code=1))
    async with trio_sup.open_supervisor(system=system, install_lock="memory") as sup:
        await sup.start(SPEC)
        stream = sup.events()
        system.children[0].exit()
        await next_of(stream, events.BackendGone)
        await sup.start(SPEC)
        await sup.stop("store")
        first, second = sup.exit_reports("store#0")
    assert (first.cause, first.out_of_memory) == (Cause.EXITED, "it wrote: MemoryError")
    assert (second.cause, second.out_of_memory) == (Cause.ASKED, None)


async def test_the_evidence_of_the_kernel_comes_first(autojump_clock: MockClock) -> None:
    system = FakeSystem(FakeBackend(stderr=b"MemoryError\n", exit_code=1, out_of_memory="the kernel says so"))
    async with trio_sup.open_supervisor(system=system, install_lock="memory") as sup:
        await sup.start(SPEC)
        stream = sup.events()
        system.children[0].exit()
        await next_of(stream, events.BackendGone)
        (report,) = sup.exit_reports("store#0")
    assert report.out_of_memory == "the kernel says so; it wrote: MemoryError"


# ---- the machine as it is


def test_the_files_of_this_machine_can_be_read() -> None:
    watch = OutOfMemoryWatch()
    assert watch.counter is not None
    before = watch.before()
    assert before.killed is not None
    assert before.killed >= 0
    # Nobody has killed us, nor could the log say so.
    assert "pid" not in (watch.evidence(os.getpid(), before) or "")


async def killed_by_somebody(watch: OutOfMemoryWatch) -> ExitReport:
    """The report of a real process that somebody kills while *watch* looks on."""
    with trio.fail_after(20):
        async with trio_sup.open_supervisor() as sup:
            sup._lifecycle.launching.system.oom = watch  # type: ignore[attr-defined]
            spec = BackendSpec(name="store", command=child_command("listens"), readiness=Readiness(probe="tcp"))
            backend = await sup.start(spec)
            assert backend.pid is not None
            stream = sup.events()
            os.kill(backend.pid, signal.SIGKILL)
            await next_of(stream, events.BackendGone)
            (report,) = sup.exit_reports(backend.key)
            return report


class Counting(OutOfMemoryWatch):
    """A watch on a counter that rises with every look."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine.proc, machine.log)
        self.looks = 0
        self.machine = machine

    def before(self) -> _oom.Before:
        before = super().before()
        self.looks += 1
        self.machine.write("proc/vmstat", VMSTAT.format(self.looks))
        return before


async def test_a_sigkill_from_nobody_here_is_looked_into(machine: Machine) -> None:
    report = await killed_by_somebody(Counting(machine))
    assert (report.cause, report.status, report.killed) == (Cause.EXITED, ExitStatus(signal=9), False)
    assert report.out_of_memory is not None
    assert "rose from 0 to 1" in report.out_of_memory


async def test_a_sigkill_of_ours_is_not_looked_into(machine: Machine) -> None:
    class KillsItself:
        def budget(self, spec: BackendSpec) -> float:
            return 5.0

        async def stop(self, target: StopTarget) -> None:
            target.signal(signal.SIGKILL)
            await target.exited()

    with trio.fail_after(20):
        async with trio_sup.open_supervisor() as sup:
            sup._lifecycle.launching.system.oom = Counting(machine)  # type: ignore[attr-defined]
            for replica, policy in enumerate([None, "kill", KillsItself()]):
                spec = BackendSpec(
                    name="store",
                    command=child_command("ignores_sigterm"),
                    readiness=Readiness(probe="tcp"),
                    stop_policy=policy,
                    grace=0.05,
                )
                await sup.start(spec, replica=replica)
                (result,) = await sup.stop(f"store#{replica}", reason=str(policy))
                assert result.report is not None
                assert result.report.status == ExitStatus(signal=signal.SIGKILL)
                assert result.report.out_of_memory is None, policy


HOG = "kept = [bytearray(1_000_000) for _ in range(2000)]"
LIMITED = "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid())); os.execv(sys.executable, sys.argv[2:])"
LIMIT = 200 * 1024 * 1024

PROGRAM = f"""
import sys, trio, trio_sup

async def main():
    async with trio_sup.open_supervisor() as sup:
        spec = trio_sup.BackendSpec(
            name="hog", command=[sys.executable, "-c", {HOG!r}], readiness=trio_sup.Readiness(probe="tcp")
        )
        try:
            await sup.start(spec)
        except trio_sup.DiedDuringStartup as error:
            print(error.report.status, error.report.out_of_memory, sep="|")

trio.run(main)
"""


@contextmanager
def memory_group() -> Iterator[Path | None]:
    """A memory control group of our own with a limit, where the kernel lets us make one."""
    if Path("/proc/sys/vm/panic_on_oom").read_text().strip() != "0":
        yield None
        return
    for top, limits in (
        ("/sys/fs/cgroup/memory", ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]),
        ("/sys/fs/cgroup", ["memory.max", "memory.swap.max"]),
    ):
        group = Path(top) / f"trio-sup-tests-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            try:
                for limit in limits:
                    (group / limit).write_text(str(LIMIT))
            except OSError:
                continue
            yield group
            return
        finally:
            group.rmdir()
    yield None


async def test_a_real_process_that_takes_too_much_memory_is_told_from_one_that_was_killed() -> None:
    with memory_group() as group, trio.fail_after(60):
        if group is None:
            # No memory group can be made here: a limit of the process itself makes it fail by itself.
            limited = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({LIMIT}, {LIMIT}))\n{HOG}"
            command = [sys.executable, "-c", limited]
            async with trio_sup.open_supervisor() as sup:
                spec = BackendSpec(name="hog", command=command, readiness=Readiness(probe="tcp"))
                with pytest.raises(trio_sup.DiedDuringStartup) as raised:
                    await sup.start(spec)
            assert raised.value.report is not None
            assert raised.value.report.out_of_memory == "it wrote: MemoryError"
            return
        command = [sys.executable, "-c", LIMITED, str(group / "cgroup.procs"), sys.executable, "-c", PROGRAM]
        done = await trio.run_process(command, capture_stdout=True)
        status, _, evidence = done.stdout.decode().strip().partition("|")
    assert status == "killed by SIGKILL"
    assert "the oom_kill counter of its control group rose from 0 to 1 while it ran" in evidence
