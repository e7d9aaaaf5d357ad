"""What is found out about a machine, from made-up files, environments and tools."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from tests.conftest import children, descriptors
from trio_sup.gallery import _machine
from trio_sup.gallery._machine import detect_capability

NVIDIA, AMD, INTEL, ASPEED = "0x10de", "0x1002", "0x8086", "0x1a03"
GIB = 2**30


@attrs.define
class FakeMachine:
    """A root directory with what a kernel would show, and a directory for tools."""

    root: Path
    environ: dict[str, str] = attrs.field(factory=dict)

    def file(self, path: str, content: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(content)

    def pci(self, vendor: str, kind: str = "0x030000", slot: str = "0000:01:00.0") -> None:
        self.file(f"sys/bus/pci/devices/{slot}/vendor", f"{vendor}\n")
        self.file(f"sys/bus/pci/devices/{slot}/class", f"{kind}\n")

    def card(self, vendor: str, memory: int | None = None, number: int = 0) -> None:
        self.file(f"sys/class/drm/card{number}/device/vendor", f"{vendor}\n")
        self.file(f"sys/class/drm/card{number}-HDMI-A-1/status", "connected\n")
        if memory is not None:
            self.file(f"sys/class/drm/card{number}/device/mem_info_vram_total", f"{memory}\n")

    def cuda(self, *versions: int) -> None:
        for version in versions:
            (self.root / f"usr/local/cuda-{version}").mkdir(parents=True)

    def nvidia_smi(self, program: str) -> None:
        tool = self.root / "bin" / "nvidia-smi"
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(f"#!{sys.executable} -S\nimport os, sys, time\n{program}\n")
        tool.chmod(0o755)
        self.environ["PATH"] = str(tool.parent)

    async def capability(self, processor: str = "x86_64", system: str = "Linux") -> str:
        with trio.fail_after(20):
            return await detect_capability(environ=self.environ, root=self.root, system=system, processor=processor)


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    return FakeMachine(tmp_path)


# ---- what is forced


async def test_the_environment_decides_before_all_else(machine: FakeMachine) -> None:
    machine.environ["LOCALAI_FORCE_META_BACKEND_CAPABILITY"] = " NVIDIA-cuda-13\n"
    machine.file("run/localai/capability", "amd")
    machine.card(AMD, 16 * GIB)
    assert await machine.capability() == "nvidia-cuda-13"
    machine.environ["LOCALAI_FORCE_META_BACKEND_CAPABILITY"] = " "
    assert await machine.capability() == "amd"


async def test_the_run_file_is_next(machine: FakeMachine) -> None:
    machine.card(AMD, 16 * GIB)
    machine.file("run/localai/capability", " intel \n")
    machine.file("etc/capability", "disable\n")
    assert await machine.capability() == "intel"
    machine.environ["LOCALAI_FORCE_META_BACKEND_CAPABILITY_RUN_FILE"] = "/etc/capability"
    assert await machine.capability() == "disable"
    machine.environ["LOCALAI_FORCE_META_BACKEND_CAPABILITY_RUN_FILE"] = "/etc/none"
    assert await machine.capability() == "amd"


@pytest.mark.parametrize("what", ["blank", "directory", "pipe", "bytes"])
async def test_a_run_file_that_says_nothing_is_passed_over(machine: FakeMachine, what: str) -> None:
    machine.card(AMD, 16 * GIB)
    path = machine.root / "run/localai/capability"
    machine.file("run/localai/capability", " \n")
    if what != "blank":
        path.unlink()
    if what == "directory":
        path.mkdir()
    if what == "pipe":
        os.mkfifo(path)
    if what == "bytes":
        path.write_bytes(b"\n\n\n")
    before = descriptors()
    assert await machine.capability() == "amd"
    assert descriptors() == before


# ---- what is found


async def test_without_a_gpu_it_is_the_default(machine: FakeMachine) -> None:
    machine.cuda(12, 13)
    assert await machine.capability() == "default"
    machine.pci(ASPEED)  # what servers have for a text screen
    machine.pci(NVIDIA, "0x020000", "0000:02:00.0")  # a network card
    machine.card(ASPEED)
    assert await machine.capability() == "default"


async def test_amd_tells_its_memory(machine: FakeMachine) -> None:
    machine.card(AMD, 4 * GIB)
    assert await machine.capability() == "default"
    machine.card(AMD, 1, number=1)
    assert await machine.capability() == "amd"  # of all cards together
    machine.cuda(12)
    assert await machine.capability() == "amd"


async def test_intel_shows_its_memory_as_a_window(machine: FakeMachine) -> None:
    machine.card(INTEL)
    assert await machine.capability() == "default"
    small = "0x0000000091000000 0x0000000091ffffff 0x0000000000140204\n"
    none = "0x0000000000000000 0x0000000000000000 0x0000000000000000\n"
    other = "0x0000004000000000 0x00000043ffffffff 0x0000000000140204\n"  # large, but not memory
    machine.file("sys/class/drm/card0/device/resource", small + none + other + "nonsense\n")
    assert await machine.capability() == "default"
    machine.file("sys/class/drm/card0/device/resource", small + "0x4000000000 0x41ffffffff 0x14220c\n")
    assert await machine.capability() == "intel"


async def test_nvidia_without_a_driver_is_the_default(machine: FakeMachine) -> None:
    machine.pci(NVIDIA, "0x030200")
    machine.cuda(12)
    assert await machine.capability() == "default"


async def test_nvidia_tells_its_memory_through_its_tool(machine: FakeMachine) -> None:
    machine.pci(NVIDIA, "0x030200")
    machine.nvidia_smi("assert '--query-gpu=memory.total' in sys.argv; print('2048'); print('2048')")
    assert await machine.capability() == "default"
    machine.nvidia_smi("print('2048'); print(' 2049 ')")
    assert await machine.capability() == "nvidia"
    machine.cuda(12)
    assert await machine.capability() == "nvidia-cuda-12"
    machine.cuda(13)
    assert await machine.capability() == "nvidia-cuda-13"


async def test_the_tool_alone_may_know_of_the_gpu(machine: FakeMachine) -> None:
    machine.nvidia_smi("print('24576')")
    assert await machine.capability() == "nvidia"


async def test_a_large_gpu_counts_before_the_small_one_of_the_processor(machine: FakeMachine) -> None:
    machine.pci(INTEL, slot="0000:00:02.0")
    machine.card(INTEL)
    machine.pci(NVIDIA)
    machine.nvidia_smi("print('24576')")
    assert await machine.capability() == "nvidia"


async def test_nvidia_on_arm_is_l4t_whatever_its_memory(machine: FakeMachine) -> None:
    machine.file("proc/device-tree/compatible", "nvidia,p3701-0000\0nvidia,tegra234\0")
    assert await machine.capability("aarch64") == "nvidia-l4t"
    machine.cuda(12)
    assert await machine.capability("aarch64") == "nvidia-l4t-cuda-12"
    machine.nvidia_smi("print('[N/A]')")
    (machine.root / "proc/device-tree/compatible").unlink()
    assert await machine.capability("aarch64") == "nvidia-l4t-cuda-12"
    for program in ("sys.exit(9)", "print('No devices were found')"):
        machine.nvidia_smi(program)
        assert await machine.capability("aarch64") == "default"


async def test_a_mac_is_told_by_its_processor(machine: FakeMachine) -> None:
    assert await machine.capability("arm64", "Darwin") == "metal"
    assert await machine.capability("x86_64", "Darwin") == "darwin-x86"


# ---- tools that misbehave


@pytest.mark.parametrize(
    "program",
    [
        "sys.exit(9)",
        "print('[N/A]')",
        "print('')",
        "print('No devices were found')",
        "os.write(1, b'\\xff\\xfe')",
        "print('24576'); sys.stdout.flush(); os.kill(os.getpid(), 9)",
        "print('24576\\n' * 20000)",
        "print(-1)",
        "print('9' * 5000)",
    ],
)
async def test_what_a_tool_says_wrongly_counts_nothing(machine: FakeMachine, program: str) -> None:
    machine.pci(NVIDIA)
    machine.nvidia_smi(program)
    assert await machine.capability() == "default"
    assert children() == set()


async def test_a_tool_that_cannot_be_executed_counts_nothing(machine: FakeMachine) -> None:
    machine.pci(NVIDIA)
    machine.nvidia_smi("")
    (machine.root / "bin/nvidia-smi").write_text("#!/nonexistent/interpreter\n")
    assert await machine.capability() == "default"


@pytest.mark.parametrize(
    "program",
    [
        "time.sleep(60)",
        "print('24576'); sys.stdout.flush(); time.sleep(60)",
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)",
        "os.close(1); time.sleep(60)",
    ],
)
async def test_a_tool_that_hangs_is_ended(machine: FakeMachine, program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_machine, "TOOL_TIMEOUT", 0.5)
    machine.pci(NVIDIA)
    machine.nvidia_smi(program)
    started = time.perf_counter()
    assert await machine.capability() == "default"
    assert time.perf_counter() - started < 5
    assert children() == set()


async def test_detection_can_be_cancelled(machine: FakeMachine) -> None:
    machine.pci(NVIDIA)
    machine.nvidia_smi(f"open({str(machine.root / 'started')!r}, 'w'); time.sleep(60)")
    before = descriptors()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(machine.capability)
        while not (machine.root / "started").exists():
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert children() == set()
    assert descriptors() == before


async def test_the_real_machine_has_some_capability() -> None:
    with trio.fail_after(20):
        assert await detect_capability()
