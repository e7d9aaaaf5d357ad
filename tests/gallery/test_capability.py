"""What a machine can run, as a word, and what goes with it."""

from __future__ import annotations

from typing import Any

import pytest

from trio_sup.gallery._capability import Machine, alias_preference, capability_of, concrete_name, fits, made_for
from trio_sup.gallery._gallery import Gallery
from trio_sup.gallery._index import IndexEntry

GALLERY = Gallery(name="g", url="https://example.com/")
GIB = 2**30


def entry(name: str, uri: str | None = "quay.io/a/b:c", **fields: Any) -> IndexEntry:
    return IndexEntry(gallery=GALLERY, name=name, uri=uri, **fields)


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (Machine(), "default"),
        (Machine(cuda=frozenset({12, 13})), "default"),  # the directories count only with a GPU
        (Machine(vendor="nvidia", vram_bytes=8 * GIB), "nvidia"),
        (Machine(vendor="nvidia", vram_bytes=8 * GIB, cuda=frozenset({12})), "nvidia-cuda-12"),
        (Machine(vendor="nvidia", vram_bytes=8 * GIB, cuda=frozenset({13})), "nvidia-cuda-13"),
        (Machine(vendor="nvidia", vram_bytes=8 * GIB, cuda=frozenset({12, 13})), "nvidia-cuda-13"),
        (Machine(vendor="nvidia", vram_bytes=4 * GIB, cuda=frozenset({12})), "default"),
        (Machine(vendor="nvidia", vram_bytes=4 * GIB + 1), "nvidia"),
        (Machine(vendor="nvidia"), "default"),
        (Machine(vendor="amd", vram_bytes=8 * GIB, cuda=frozenset({12, 13})), "amd"),
        (Machine(vendor="amd", vram_bytes=2 * GIB), "default"),
        (Machine(vendor="intel", vram_bytes=8 * GIB), "intel"),
        (Machine(processor="aarch64"), "default"),
        (Machine(processor="aarch64", cuda=frozenset({12})), "default"),
        (Machine(processor="aarch64", vendor="nvidia"), "nvidia-l4t"),
        (Machine(processor="arm64", vendor="nvidia", cuda=frozenset({12})), "nvidia-l4t-cuda-12"),
        (Machine(processor="aarch64", vendor="nvidia", cuda=frozenset({12, 13})), "nvidia-l4t-cuda-13"),
        (Machine(processor="aarch64", vendor="amd", vram_bytes=8 * GIB), "amd"),
        (Machine(system="Darwin", processor="arm64"), "metal"),
        (Machine(system="Darwin", processor="x86_64", vendor="amd", vram_bytes=8 * GIB), "darwin-x86"),
    ],
)
def test_the_word_for_a_machine(machine: Machine, expected: str) -> None:
    assert capability_of(machine) == expected


IMAGES = "quay.io/go-skynet/local-ai-backends:latest-"
EVERYWHERE = ["default", "nvidia", "nvidia-cuda-12", "nvidia-l4t-cuda-12", "amd", "intel", "vulkan", "metal"]


@pytest.mark.parametrize(
    ("name", "uri", "expected"),
    [
        ("cpu-x", f"{IMAGES}cpu-x", EVERYWHERE),
        ("vulkan-x", f"{IMAGES}gpu-vulkan-x", EVERYWHERE),
        ("cuda12-x", f"{IMAGES}gpu-nvidia-cuda-12-x", ["nvidia", "nvidia-cuda-12", "nvidia-l4t-cuda-12"]),
        ("x", f"{IMAGES}gpu-nvidia-cuda-12-x", ["nvidia", "nvidia-cuda-12", "nvidia-l4t-cuda-12"]),
        ("CUDA12-x", "quay.io/a/b:c", ["nvidia", "nvidia-cuda-12", "nvidia-l4t-cuda-12"]),
        ("nvidia-l4t-arm64-x", f"{IMAGES}nvidia-l4t-arm64-x", ["nvidia-l4t-cuda-12"]),
        ("cuda13-nvidia-l4t-arm64-x", f"{IMAGES}x", ["nvidia-l4t-cuda-12"]),
        ("rocm-x", f"{IMAGES}gpu-rocm-hipblas-x", ["amd"]),
        ("x", f"{IMAGES}hipblas-x", ["amd"]),
        ("hip-x", f"{IMAGES}x", ["amd"]),
        ("amd-x", f"{IMAGES}x", ["amd"]),
        ("intel-sycl-f16-x", f"{IMAGES}gpu-intel-sycl-f16-x", ["intel"]),
        ("sycl-f32-x", f"{IMAGES}x", ["intel"]),
        ("metal-x", f"{IMAGES}metal-darwin-arm64-x", ["metal", "darwin-x86"]),
        ("mlx", f"{IMAGES}x", ["metal", "darwin-x86"]),
        ("mlx-audio", f"{IMAGES}x", ["metal", "darwin-x86"]),
        ("darwin-x86-x", f"{IMAGES}x", ["metal", "darwin-x86"]),
        ("metal-cuda", f"{IMAGES}l4t-rocm", ["metal", "darwin-x86"]),  # the first of the kinds decides
        ("x", "docker.io/rocm/x:latest", ["amd"]),
        ("x", "oci://quay.io/nvidia/x", ["nvidia", "nvidia-cuda-12", "nvidia-l4t-cuda-12"]),
        ("x", "rocm/x:latest", ["amd"]),
        # What only looks like one of these words, or stands where it says nothing about the build.
        ("x-linux-amd64", "https://example.com/x-linux-amd64.tar.gz", EVERYWHERE),
        ("x", "https://nvidia.example/rocm/x.tar.gz?intel", EVERYWHERE),
        ("x", "nvidia.example:5000/a/x", EVERYWHERE),
        ("x", "/opt/cuda/backends/x", EVERYWHERE),
        ("x", "file:///srv/intel/x.tar", EVERYWHERE),
        ("x", "file:///srv/x/cuda-x.tar", ["nvidia", "nvidia-cuda-12", "nvidia-l4t-cuda-12"]),
        ("x", "ocifile:///srv/intel/x.tar", EVERYWHERE),
        ("friendship", "quay.io/a/chip-intelligence", EVERYWHERE),
        ("bare-hippo", "quay.io/a/baremetal", EVERYWHERE),
    ],
)
def test_a_build_fits_the_machines_it_was_made_for(name: str, uri: str, expected: list[str]) -> None:
    capabilities = [*EVERYWHERE, "darwin-x86"]
    wanted = capabilities if expected is EVERYWHERE else expected
    assert [capability for capability in capabilities if fits(entry(name, uri), capability)] == wanted
    assert fits(entry(name, uri), "disable")


def test_what_a_build_was_made_for_is_told() -> None:
    assert made_for(entry("cuda12-x")) == "nvidia"
    assert made_for(entry("x")) is None


def meta(**capabilities: str) -> IndexEntry:
    return entry("m", None, capabilities=capabilities)


def test_a_meta_means_the_build_for_the_machine_else_the_default_else_the_cpu() -> None:
    both = meta(nvidia="n", default="d", cpu="c")
    assert concrete_name(both, "nvidia") == "n"
    assert concrete_name(both, "nvidia-cuda-12") == "d"
    assert concrete_name(both, "amd") == "d"
    assert concrete_name(meta(nvidia="n", cpu="c"), "amd") == "c"
    assert concrete_name(meta(nvidia="n"), "amd") is None
    assert concrete_name(meta(nvidia="n"), "default") is None


def test_a_meta_fits_if_it_has_a_build() -> None:
    assert fits(meta(amd="n"), "amd")
    assert fits(meta(cpu="n"), "amd")
    assert not fits(meta(nvidia="n"), "amd")
    assert fits(meta(nvidia="n"), "disable")
    # Its own name says nothing: it has builds for all kinds of machines.
    assert fits(entry("cuda-for-all", None, capabilities={"default": "x"}), "default")


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ("nvidia", ("cuda", "vulkan", "cpu")),
        ("nvidia-l4t-cuda-13", ("cuda", "vulkan", "cpu")),
        ("amd", ("rocm", "hip", "vulkan", "cpu")),
        ("intel", ("sycl", "intel", "cpu")),
        ("metal", ("metal", "cpu")),
        ("darwin-x86", ("darwin-x86", "cpu")),
        ("vulkan", ("vulkan", "cpu")),
        ("default", ("cpu",)),
        ("", ("cpu",)),
    ],
)
def test_which_build_an_alias_prefers(capability: str, expected: tuple[str, ...]) -> None:
    assert alias_preference(capability) == expected
