"""Layers, one over the other, into the files of a release."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import BinaryIO

import trio

from trio_sup.gallery import Unpacker
from trio_sup.strategies import Fetch, InstallPhase, UnpackLimits


async def flatten(fetch: Fetch, layers: Sequence[Callable[[], BinaryIO]], total: int) -> None:
    """Unpack *layers*, the lowest one first, into the directory of *fetch*, in a thread.

    Args:
        layers: Each opens one layer, compressed or not.
        total: Bytes that all of them have, for the progress.

    Raises:
        UnsafeArchive, ArchiveTooLarge: A layer must not be unpacked.
        OSError: The disk is full, and the like.

    Cancellation: ends the thread soon; what it wrote stays, for the caller to throw away.
    """

    def work() -> None:
        unpacker = Unpacker(fetch.into, fetch.uri, fetch.limits, report=report)
        for open_layer in layers:
            with open_layer() as file:
                unpacker.unpack(file, layer=True)
        unpacker.finish()

    def report(done: int) -> None:
        fetch.report(InstallPhase.UNPACKING, done, total)

    report(0)
    # A limiter of its own: threads that wait for something else must not hold it up.
    await trio.to_thread.run_sync(work, limiter=trio.CapacityLimiter(1))


def most_packed_bytes(limits: UnpackLimits) -> int:
    """How many bytes layers may have that are to be unpacked within *limits*."""
    # What is compressed is hardly larger than what it unpacks to; what claims to be would only fill the disk.
    return 2 * limits.max_bytes + 2**20
