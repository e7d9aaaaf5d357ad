"""What a machine can run: its capability as a word, and which builds of a backend go with it. Source: spec 7.4."""

from __future__ import annotations

import re
from typing import Literal

import attrs

from ._index import IndexEntry

DEFAULT, CPU, DISABLE = "default", "cpu", "disable"
"""The capability of a machine without a GPU worth mentioning; the last resort of a meta; the one that fits all."""
LEAST_VRAM = 4 * 2**30
"""Bytes of video memory that a GPU must have more of to count."""

Vendor = Literal["nvidia", "amd", "intel"]


@attrs.frozen(kw_only=True)
class Machine:
    """What there is to be known about a machine.

    Attributes:
        system: As the kernel calls itself: ``"Linux"``, ``"Darwin"``.
        processor: As the kernel calls it: ``"x86_64"``, ``"aarch64"``, ``"arm64"``.
        vendor: Of its GPU; None without one.
        vram_bytes: Video memory of all GPUs together, as far as it is known.
        cuda: The major versions of CUDA that are installed.
    """

    system: str = "Linux"
    processor: str = "x86_64"
    vendor: Vendor | None = None
    vram_bytes: int = 0
    cuda: frozenset[int] = frozenset()


def capability_of(machine: Machine) -> str:
    """The word for what *machine* can run, such as ``"nvidia-cuda-12"``, ``"amd"`` or ``"default"``."""
    arm = machine.processor.lower() in ("aarch64", "arm64")
    if machine.system == "Darwin":
        return "metal" if arm else "darwin-x86"
    with_cuda = next((f"-cuda-{version}" for version in (13, 12) if version in machine.cuda), "")
    if arm and machine.vendor == "nvidia":
        return f"nvidia-l4t{with_cuda}"  # its memory is not the GPU's alone, so how much there is says nothing
    if machine.vendor is None or machine.vram_bytes <= LEAST_VRAM:
        return DEFAULT
    return f"nvidia{with_cuda}" if machine.vendor == "nvidia" else machine.vendor


# Which word in a build's name or address says what it is for; the first line that has one decides. A word begins where
# no letter stands before it. Archives for ordinary processors are called "amd64", and words may begin with "hip".
_MADE_FOR = (
    ("metal", re.compile(r"(?<![a-z])(?:darwin|mlx|metal)")),
    ("nvidia-l4t", re.compile(r"(?<![a-z])l4t")),
    ("nvidia", re.compile(r"(?<![a-z])(?:cuda|nvidia)")),
    ("amd", re.compile(r"(?<![a-z])(?:rocm|hip(?![a-z])|hipblas|amd(?!64))")),
    ("intel", re.compile(r"(?<![a-z])(?:sycl|intel(?![a-z]))")),
)


def made_for(entry: IndexEntry) -> str | None:
    """What kind of machine a concrete build is for: ``"metal"``, ``"nvidia-l4t"``, ``"nvidia"``, ``"amd"``,
    ``"intel"``; None if it runs everywhere (as those for Vulkan do).

    Told by the words in its name, and in what its address says about the build: everything behind the host of an
    image reference, the last part of other addresses. (A server or a directory may be called anything.)
    """
    words = f"{entry.name} {_telling_part(entry.uri or '')}".lower()
    return next((kind for kind, pattern in _MADE_FOR if pattern.search(words)), None)


def _telling_part(uri: str) -> str:
    scheme, separator, rest = uri.rpartition("://")
    if (separator and scheme.lower() != "oci") or rest.startswith(("/", ".")):
        return rest.rstrip("/").rpartition("/")[2].partition("?")[0]
    host, slash, name = rest.partition("/")
    return name if slash and ("." in host or ":" in host) else rest


def fits(entry: IndexEntry, capability: str) -> bool:
    """Whether a machine of this capability can use *entry*; a meta, if it has a build for it."""
    if capability == DISABLE:
        return True
    if entry.is_meta:
        return concrete_name(entry, capability) is not None
    kind = made_for(entry)
    if kind is None:
        return True
    if kind == "metal":
        return capability in ("metal", "darwin-x86")
    return capability.startswith(kind) if kind.startswith("nvidia") else capability == kind


def concrete_name(entry: IndexEntry, capability: str) -> str | None:
    """The name of the build that a meta has for machines of this capability; else its default one, else that for
    the CPU; None if it has none of these."""
    wanted = (capability, DEFAULT, CPU)
    return next((entry.capabilities[word] for word in wanted if word in entry.capabilities), None)


_PREFERENCES = (
    ("nvidia", ("cuda", "vulkan", "cpu")),
    ("amd", ("rocm", "hip", "vulkan", "cpu")),
    ("intel", ("sycl", "intel", "cpu")),
    ("metal", ("metal", "cpu")),
    ("darwin-x86", ("darwin-x86", "cpu")),
    ("vulkan", ("vulkan", "cpu")),
)


def alias_preference(capability: str) -> tuple[str, ...]:
    """Which of several installed builds an alias means on such a machine: the first whose directory's name contains
    the first of these, else the second, and so on."""
    return next((words for prefix, words in _PREFERENCES if capability.startswith(prefix)), ("cpu",))
