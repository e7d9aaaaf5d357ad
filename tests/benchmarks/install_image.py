"""How long an image of 100 MB takes from a registry to its files, against `skopeo copy` and `tar x`; and what memory.

Needs Debian's docker-registry and skopeo.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import trio
import trio_sup_oci

import trio_sup
from trio_sup import Galleries

from ._effort import Effort
from ._figures import Figure, median
from ._isolation import run_isolated
from .idle_cost import memory

# The makers of images and registries of the plugin's tests.
sys.path.append(str(Path(__file__).parents[2] / "plugins" / "trio-sup-oci" / "tests"))

PROGRAMS = ("docker-registry", "skopeo", "tar")
NAME = "benchmark/image:v1"
LAYERS = 4
TOTAL = 100e6
"""Bytes that all layers have, compressed."""

RATIO_GOAL = 1.3
MEMORY_GOAL = 32e6


def figures(effort: Effort) -> Iterator[Figure]:
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        print(f"left out, since {', '.join(missing)} is not installed;", end=" ", file=sys.stderr, flush=True)
        return
    from oci_images import image
    from oci_registry import running_registry

    share = 0.05 if effort is Effort.QUICK else 1.0
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        what = image(*(_files(number, share * TOTAL / LAYERS) for number in range(LAYERS)))
        with running_registry(directory / "registry") as registry:
            registry.push(what, NAME, directory)
            turns = [_turn(directory, registry.host, number) for number in range(effort.repeats(7))]
    took, took_others = (median(turn[column] for turn in turns) for column in (0, 1))
    packed = sum(len(layer.data) for layer in what.layers) / 1e6
    unpacked = turns[0][3] / 1e6
    yield Figure(
        name=f"install an image of {packed:.0f} MB, against skopeo copy and tar x",
        measured=took / took_others,
        goal=RATIO_GOAL,
        unit="x",
        note=f"{took:.2f} s against {took_others:.2f} s; {LAYERS} layers with gzip, {unpacked:.0f} MB of files; "
        f"medians of {len(turns)}, in turns",
    )
    yield Figure(
        name=f"install an image of {packed:.0f} MB: memory it adds",
        measured=max(turn[2] for turn in turns),
        goal=MEMORY_GOAL,
        unit="MB",
        note="peak of what is resident; the most of all turns",
    )


def _files(number: int, packed: float) -> Mapping[str, bytes]:
    """About half of the bytes as hard to compress as weights, the others like programs and texts; also small files."""
    rng = random.Random(number)
    words = [rng.randbytes(rng.randrange(2, 9)).hex() for _ in range(2000)]
    # Text of these words compresses to about 0.3 of its size.
    size = int(packed / 20 / 1.3)
    files: dict[str, bytes] = {"run.sh": b"#!/bin/sh\n"} if number == 0 else {}
    for part in range(20):
        text = " ".join(rng.choices(words, k=size // 12)).encode()
        files |= {f"lib{number}/weights-{part}": rng.randbytes(size), f"lib{number}/text-{part}": text[:size]}
    return files | {f"lib{number}/small/{part}": words[part].encode() * 50 for part in range(200)}


def _turn(directory: Path, host: str, number: int) -> tuple[float, float, float, float]:
    """One installation of ours, one of theirs, the memory that ours added, and the bytes of the files."""
    place = directory / f"turn-{number}"
    place.mkdir()
    # By turns, so that neither always finds what the other one has warmed up.
    theirs = _their_way(place / "theirs", host) if number % 2 else 0.0
    ours = run_isolated(install, timeout=300, uri=f"oci://{host}/{NAME}", directory=str(place / "ours"))
    theirs = theirs or _their_way(place / "theirs", host)
    files = _bytes_below(place / "theirs" / "root")
    assert files == ours["files"]
    shutil.rmtree(place)
    return ours["took"], theirs, ours["memory"], files


def _their_way(place: Path, host: str) -> float:
    root, image = place / "root", place / "image"
    root.mkdir(parents=True)
    os.sync()
    began = time.perf_counter()
    command = ["skopeo", "copy", "--quiet", "--src-tls-verify=false", f"docker://{host}/{NAME}", f"dir:{image}"]
    environment = {**os.environ, "TMPDIR": str(place)}
    subprocess.run(command, check=True, timeout=300, env=environment, stdout=subprocess.DEVNULL)
    manifest = json.loads((image / "manifest.json").read_text())
    for layer in manifest["layers"]:
        blob = image / layer["digest"].removeprefix("sha256:")
        subprocess.run(["tar", "xzf", str(blob), "-C", str(root)], check=True, timeout=300)
    return time.perf_counter() - began


async def install(uri: str, directory: str) -> dict[str, float]:
    """Install the image at *uri*; how long that took, what memory it added, and the bytes of its files."""
    await trio.to_thread.run_sync(importlib.import_module, "trio_sup_oci._pulling")  # not what is measured
    galleries = Galleries(backends_dir=directory, index=(), capability="default")
    async with trio_sup.open_supervisor(plugins=[trio_sup_oci], galleries=galleries) as sup:
        os.sync()
        before = _peak_from_now()
        began = time.perf_counter()
        release = await sup.install(uri, name="benchmark")
        took = time.perf_counter() - began
        peak = int(_status("VmHWM")) * 1024
    assert release.directory is not None
    files = _bytes_below(release.directory) - (release.directory / "metadata.json").stat().st_size
    return {"took": took, "memory": peak - before, "files": files}


def _bytes_below(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def _peak_from_now() -> int:
    """What is resident now, after the highest mark was set to it."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory(os.getpid())


def _status(field: str) -> str:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return lines[field].split()[0]
