"""Did memory run out? Evidence from control groups, counters, the kernel's log and what a process wrote."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.state.machine import VMSTAT, Machine
from trio_sup.engine._oom import hint_in

EVENTS = "low 0\nhigh 0\nmax 12\noom 1\noom_kill {}\noom_group_kill 0\n"
CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


V2 = "41 31 0:38 / HERE/cg rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "35 31 0:32 / HERE/memory rw - cgroup cgroup rw,memory"
CPU = "36 31 0:33 / HERE/cpu rw - cgroup cgroup rw,cpu"

PLACES = {
    "version 2": ("0::/system/app\n", [V2], "cg/system/app/memory.events", EVENTS),
    "version 2, accounted for further up": ("0::/system/app/worker\n", [V2], "cg/system/memory.events", EVENTS),
    "version 2, at the mount point": ("0::/\n", [V2], "cg/memory.events", EVENTS),
    "version 2, of a container that sees only its own part": (
        "0::/docker/abc/inner\n",
        [V2.replace(" / HERE", " /docker/abc HERE")],
        "cg/inner/memory.events",
        EVENTS,
    ),
    "version 2, at a path with a space": (
        "0::/a b\n",
        [V2.replace("HERE/cg", r"HERE/c\040g")],
        "c g/a b/memory.events",
        EVENTS,
    ),
    "version 1": ("5:cpu:/x\n4:memory:/app\n0::/app\n", [CPU, V1, V2], "memory/app/memory.oom_control", CONTROL),
    "version 1, with others": ("4:hugetlb,memory:/app\n", [V1], "memory/app/memory.oom_control", CONTROL),
    "version 1 of a container": (
        "4:memory:/docker/abc\n",
        [V1.replace(" / HERE", " /docker/abc HERE")],
        "memory/memory.oom_control",
        CONTROL,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("groups", "mounts", "path", "text"), PLACES.values(), ids=PLACES)
def test_the_counter_of_the_control_group_is_found_and_compared(
    machine: Machine, groups: str, mounts: list[str], path: str, text: str
) -> None:
    machine.groups(groups, *mounts)
    machine.write(path, text.format(3))
    watch = machine.watch()
    before = watch.before()
    assert watch.evidence(42, before) is None
    machine.write(path, text.format(5))
    assert watch.evidence(42, before) == (
        "the oom_kill counter of its control group rose from 3 to 5 while it ran, and the SIGKILL came from nobody here"
    )
    assert watch.evidence(42, watch.before()) is None


ELSEWHERE = {
    "no file at all": None,
    "no such hierarchy": ("4:memory:/app\n", [CPU]),
    "a group outside of what we see": ("0::/../elsewhere\n", [V2]),
    "a group that only begins like the root of the mount": ("0::/abcdef\n", [V2.replace(" / H", " /abc H")]),
    "the root, which counts nothing": ("0::/\n", [V2]),
    "an old kernel that does not count": ("4:memory:/app\n", [V1]),
    "nonsense": ("what\n::::\n0\n", ["- - -", ""]),
}  # fmt: skip


@pytest.mark.parametrize("groups", ELSEWHERE.values(), ids=ELSEWHERE)
def test_without_such_a_counter_that_of_the_machine_is_compared(
    machine: Machine, groups: tuple[str, list[str]] | None
) -> None:
    if groups is not None:
        machine.groups(groups[0], *groups[1])
    machine.write("memory/app/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n")
    machine.write("elsewhere/memory.events", EVENTS.format(1))
    watch = machine.watch()
    before = watch.before()
    machine.write("proc/vmstat", VMSTAT.format(1))
    evidence = watch.evidence(42, before)
    assert evidence is not None
    assert evidence.startswith("the oom_kill counter of the whole machine rose from 0 to 1 while it ran")


def test_without_any_counter_there_is_no_evidence_and_no_error(machine: Machine) -> None:
    (machine.proc / "vmstat").unlink()
    watch = machine.watch()
    assert watch.counter is None
    assert watch.evidence(42, watch.before()) is None


def test_a_counter_that_goes_away_is_no_evidence(machine: Machine) -> None:
    machine.groups("0::/app\n", V2)
    machine.write("cg/app/memory.events", EVENTS.format(3))
    watch = machine.watch()
    before = watch.before()
    (machine.folder / "cg/app/memory.events").unlink()
    assert watch.evidence(42, before) is None
    assert watch.before().killed is None
    machine.write("cg/app/memory.events", EVENTS.format(9))
    assert watch.evidence(42, watch.before()) is None


# ---- the kernel's log


def record(text: str, *, at: float | None = None, priority: int = 3) -> str:
    microseconds = int((time.monotonic() if at is None else at) * 1e6)
    return f"{priority},346,{microseconds},-;{text}"


KILLED = "Out of memory: Killed process 4242 (python) total-vm:145796kB, anon-rss:135552kB, oom_score_adj:0"


@pytest.mark.parametrize(
    "text",
    [
        KILLED,
        "Memory cgroup out of memory: Killed process 4242 (python) total-vm:145796kB",
        "Out of memory (oom_kill_allocating_task): Killed process 4242 (a b) UID 0",
    ],
)
def test_the_kernels_log_is_quoted(machine: Machine, text: str) -> None:
    watch = machine.watch()
    before = watch.before()
    machine.logs(record("oom-kill:constraint=CONSTRAINT_NONE,task=python,pid=4242"), " SUBSYSTEM=x", record(text))
    assert watch.evidence(4242, before) == (f"the kernel's log says that it killed pid 4242 for want of memory: {text}")


OTHERS = {
    "another pid": record("Out of memory: Killed process 42421 (python)"),
    "the end of another pid": record("Out of memory: Killed process 4 (python)"),
    "a line of long ago, about another process of that number": record(KILLED, at=time.monotonic() / 2),
    "a line that a program wrote": record(KILLED, priority=12),
    "a line of another shape": KILLED,
    "a line cut short": record(KILLED)[:20],
    "nothing": "",
}


@pytest.mark.parametrize("line", OTHERS.values(), ids=OTHERS)
def test_other_lines_of_the_log_are_no_evidence(machine: Machine, line: str) -> None:
    watch = machine.watch()
    before = watch.before()
    machine.logs(line)
    assert watch.evidence(4242, before) is None
    machine.logs(line, record(KILLED))
    assert watch.evidence(4242, before) is not None


def test_the_log_counts_for_nothing_where_our_pids_are_not_the_kernels(machine: Machine) -> None:
    watch = machine.watch(other_pids=True)
    before = watch.before()
    machine.logs(record(KILLED))
    assert watch.evidence(4242, before) is None


def test_the_log_and_the_counter_are_both_told(machine: Machine) -> None:
    watch = machine.watch()
    before = watch.before()
    machine.logs(record(KILLED))
    machine.write("proc/vmstat", VMSTAT.format(1))
    evidence = watch.evidence(4242, before)
    assert evidence is not None
    assert evidence.startswith("the kernel's log says")
    assert "; the oom_kill counter" in evidence


# ---- what it wrote itself

SAID = {
    "Python": "Traceback (most recent call last):\n  File …\nMemoryError",
    "NumPy": "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 7.45 GiB for an array with shape (10,)",
    "PyTorch": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of",
    "CUDA": "CUDA error 2: out of memory",
    "llama.cpp": "alloc_buffer: allocating 4096 MiB on device 0: cudaMalloc failed: out of memory",
    "Vulkan": "vk::Device::allocateMemory: ErrorOutOfDeviceMemory",
    "XLA": "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8589934592 bytes.",
    "C": "malloc: Cannot allocate memory",
    "C++": "terminate called after throwing an instance of 'std::bad_alloc'",
    "Rust": "memory allocation of 68719476736 bytes failed",
    "Go": "fatal error: runtime: out of memory",
    "Java": "java.lang.OutOfMemoryError: Java heap space",
    "Node": "FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory",
}  # fmt: skip


@pytest.mark.parametrize("text", SAID.values(), ids=SAID)
def test_what_programs_write_when_memory_runs_out_is_known(text: str) -> None:
    assert hint_in(f"loading\n{text}\naborted") == f"it wrote: {' '.join(text.splitlines()[-1].split())}"


@pytest.mark.parametrize("text", ["", "memory is fine", "GPU memory: 12 of 24 GiB", "allocated 5 buffers", "ENOMEMBER"])
def test_what_has_nothing_to_do_with_it_is_no_hint(text: str) -> None:
    assert hint_in(text) is None


def test_the_last_such_line_is_quoted_and_a_long_one_cut() -> None:
    hint = hint_in("MemoryError\nout of memory: " + "x" * 500 + "\nlast words")
    assert hint is not None
    assert hint.startswith("it wrote: out of memory: xxx")
    assert len(hint) == len("it wrote: ") + 200
    assert hint.endswith("…")
