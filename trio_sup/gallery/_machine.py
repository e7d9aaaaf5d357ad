"""Finding out what this machine can run, from its environment, its files and its tools."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs
import trio

from ._capability import Machine, Vendor, capability_of

FORCED = "LOCALAI_FORCE_META_BACKEND_CAPABILITY"
"""Environment variable that says what this machine is, whatever there is to be found."""
FORCED_BY_FILE = "LOCALAI_FORCE_META_BACKEND_CAPABILITY_RUN_FILE"
"""Environment variable that names a file whose content does the same."""
RUN_FILE = "/run/localai/capability"
"""That file, unless another one is named. Source: spec 7.4, as is all of the order below."""
TOOL_TIMEOUT = 5.0
"""Seconds that a vendor's tool may take; one whose driver hangs takes for ever."""
TOOL_OUTPUT = 64 * 1024
"""Bytes that it may write; a tool that writes more is not the one that is meant."""

_VENDORS: Mapping[str, Vendor] = {"0x10de": "nvidia", "0x1002": "amd", "0x8086": "intel"}
_PRIORITY: tuple[Vendor, ...] = ("nvidia", "amd", "intel")
_CARD = re.compile(r"card\d+")
_DISPLAY_CLASS = "0x03"
_A_SIZE = re.compile(r"[0-9]{1,9}|\[.+\]|N/A")  # MiB, or why there is no number
_PREFETCHABLE_MEMORY = 0x2200  # flags of a line in the "resource" file of a PCI device


async def detect_capability(
    *,
    environ: Mapping[str, str] | None = None,
    root: Path = Path("/"),
    system: str = platform.system(),
    processor: str = platform.machine(),
) -> str:
    """The capability of this machine, in lower case: what is forced, else what its hardware says.

    Only a GPU with more than 4 GiB of video memory counts. Where it cannot be told how much there is, because no driver
    says it, the machine is ``"default"``; force what is meant. No file or tool makes this fail.

    Args:
        environ: The environment; by default that of this process.
        root: Where all files are looked for.
        system: What the kernel calls itself.
        processor: What the kernel calls the processor.

    Cancellation: ends soon; no process remains that can be ended.
    """
    environ = os.environ if environ is None else environ
    forced = environ.get(FORCED, "").strip()
    if not forced:
        forced = _text(_below(root, environ.get(FORCED_BY_FILE, "").strip() or RUN_FILE)).strip()
    if forced:
        await trio.lowlevel.checkpoint()
        return forced.lower()
    machine = await trio.to_thread.run_sync(_from_files, root, abandon_on_cancel=True)
    machine = attrs.evolve(machine, system=system, processor=processor)
    if system == "Linux":
        machine = await _with_nvidia_memory(machine, environ)
    return capability_of(machine)


def _from_files(root: Path) -> Machine:
    found = {*_pci_vendors(root), *_card_vendors(root)}
    if not found and _is_nvidia_soc(root):
        found.add("nvidia")
    return Machine(
        # A processor of one vendor often has a small GPU of its own beside the large one of another.
        vendor=next((vendor for vendor in _PRIORITY if vendor in found), None),
        vram_bytes=sum(_memory_of_cards(root)),
        cuda=frozenset(version for version in (12, 13) if os.path.isdir(root / f"usr/local/cuda-{version}")),
    )


def _pci_vendors(root: Path) -> Iterator[Vendor]:
    for device in _entries(root / "sys/bus/pci/devices"):
        if _text(device / "class").startswith(_DISPLAY_CLASS):
            yield from _vendor(device)


def _card_vendors(root: Path) -> Iterator[Vendor]:
    for device in _cards(root):
        yield from _vendor(device)


def _vendor(device: Path) -> tuple[Vendor, ...]:
    vendor = _VENDORS.get(_text(device / "vendor").strip().lower())
    return () if vendor is None else (vendor,)


def _is_nvidia_soc(root: Path) -> bool:
    return "nvidia," in _text(root / "proc/device-tree/compatible")


def _memory_of_cards(root: Path) -> Iterator[int]:
    """Bytes of video memory of each card, as far as files tell."""
    for device in _cards(root):
        told = _text(device / "mem_info_vram_total").strip()  # by the driver for AMD
        if told.isascii() and told.isdecimal():
            yield int(told)
        elif "intel" in _vendor(device):
            yield _largest_window(_text(device / "resource"))


def _largest_window(resources: str) -> int:
    """Bytes of the largest range of addresses through which the processor reaches the memory of a PCI card.

    The drivers for Intel do not agree on a file that tells the memory itself. A separate card shows all of it in such
    a range (they run badly otherwise), a GPU within the processor has but a small one.
    """
    sizes = [0]
    for line in resources.splitlines():
        try:
            start, end, flags = (int(number, 16) for number in line.split())
        except ValueError:
            continue
        if flags & _PREFETCHABLE_MEMORY == _PREFETCHABLE_MEMORY and end > start:
            sizes.append(end - start + 1)
    return max(sizes)


def _cards(root: Path) -> Iterator[Path]:
    for card in _entries(root / "sys/class/drm"):
        if _CARD.fullmatch(card.name):  # others are connectors: card0-HDMI-A-1
            yield card / "device"


def _below(root: Path, path: str) -> Path:
    return root / path.lstrip("/") if path.startswith("/") else Path(path)


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            return (file.read(4096) or b"").decode("utf-8", "replace")
    except (OSError, ValueError):
        return ""


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe may have no writer


# ---- what only a tool can tell


async def _with_nvidia_memory(machine: Machine, environ: Mapping[str, str]) -> Machine:
    """Under some hypervisors the tool is also the only one to know that there is such a GPU."""
    if machine.vendor == "nvidia" or machine.vendor is None:
        sizes = await _nvidia_memory(environ)
        if sizes is not None:
            return attrs.evolve(machine, vendor="nvidia", vram_bytes=machine.vram_bytes + sum(sizes))
    return machine


async def _nvidia_memory(environ: Mapping[str, str]) -> list[int] | None:
    """Bytes of memory of each NVIDIA GPU; 0 where it shares the machine's. None if there is no GPU, or no tool."""
    tool = shutil.which("nvidia-smi", path=environ.get("PATH", ""))
    if tool is None:
        return None
    command = [tool, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    lines = map(str.strip, (await _output_of(command, environ)).decode("ascii", "replace").splitlines())
    return [int(line) * 2**20 if line.isdecimal() else 0 for line in lines if _A_SIZE.fullmatch(line)] or None


async def _output_of(command: list[str], environ: Mapping[str, str]) -> bytes:
    """What *command* writes; nothing if it fails or takes too long."""
    try:
        process = await trio.lowlevel.open_process(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=dict(environ),
            start_new_session=True,
        )
    except OSError:
        return b""
    assert process.stdout is not None
    output = bytearray()
    try:
        with trio.move_on_after(TOOL_TIMEOUT):
            async for piece in process.stdout:
                output += piece
                if len(output) > TOOL_OUTPUT:
                    return b""
            if await process.wait() == 0:
                return bytes(output)
        return b""
    finally:
        # One that is stuck inside the kernel outlives this; it must not hang us.
        process.kill()
        with trio.move_on_after(1, shield=True):
            await process.stdout.aclose()
            await process.wait()
