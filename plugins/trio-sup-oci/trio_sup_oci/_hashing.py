"""Digests of files, in threads that are cancelled with the tasks that wait for them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

import trio

CHUNK = 2**20


def digest_of_file(file: BinaryIO, report: Callable[[int], None] = lambda done: None) -> str:
    """``sha256:…`` of the rest of *file*.

    Args:
        report: Told how many bytes are done.
    """
    done, digest = 0, hashlib.sha256()
    for chunk in chunks_of(file):
        digest.update(chunk)
        done += len(chunk)
        report(done)
    return "sha256:" + digest.hexdigest()


def chunks_of(file: BinaryIO) -> Iterator[bytes]:
    """The rest of *file*, piece by piece."""
    while chunk := file.read(CHUNK):
        trio.from_thread.check_cancelled()
        yield chunk
