"""Layers: downloaded side by side, each of them once, and their progress added up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import trio

from trio_sup import TrioSupError

from ._documents import Descriptor

Download = Callable[[Descriptor, Path, Callable[[int], None]], Awaitable[None]]
"""Gets one layer into a file, and says from time to time how many bytes of it are there."""


async def download_layers(
    layers: Sequence[Descriptor],
    directory: Path,
    download: Download,
    *,
    parallel: int,
    report: Callable[[int, int], None],
) -> Sequence[Path]:
    """Get all of *layers* into *directory*, and return their files in the same order.

    Args:
        parallel: How many at the same time.
        report: Called with the bytes that are there, and with how many there will be; identical layers count once.

    Raises:
        TrioSupError, OSError: What was the matter with the first one that failed; the others are broken off.
    """
    wanted = {layer.digest: layer for layer in layers}
    total = sum(layer.size for layer in wanted.values())
    done = dict.fromkeys(wanted, 0)
    failures: list[TrioSupError | OSError] = []
    limiter = trio.CapacityLimiter(parallel)

    async def one(layer: Descriptor) -> None:
        def note(count: int) -> None:
            done[layer.digest] = count
            report(sum(done.values()), total)

        try:
            async with limiter:
                await download(layer, directory / layer.hex, note)
        except (TrioSupError, OSError) as error:
            failures.append(error)
            nursery.cancel_scope.cancel()

    report(0, total)
    async with trio.open_nursery() as nursery:
        for layer in wanted.values():
            nursery.start_soon(one, layer, name=f"layer {layer.digest}")
    if failures:
        raise failures[0]
    return [directory / layer.hex for layer in layers]
