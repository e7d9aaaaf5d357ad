"""Tar archives for tests, honest and hostile."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from typing import Any

TYPES = {
    "file": tarfile.REGTYPE,
    "directory": tarfile.DIRTYPE,
    "link": tarfile.SYMTYPE,
    "hard": tarfile.LNKTYPE,
    "pipe": tarfile.FIFOTYPE,
    "character": tarfile.CHRTYPE,
    "block": tarfile.BLKTYPE,
}


Member = tuple[tarfile.TarInfo, bytes]


def member(
    name: str, body: bytes = b"", *, kind: str = "file", to: str = "", **more: Any
) -> tuple[tarfile.TarInfo, bytes]:
    """One member; *to* is what a link points to, *more* are fields of its header."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = TYPES.get(kind, tarfile.REGTYPE), len(body), to
    info.mode = 0o755 if kind == "directory" else 0o644
    for field, value in more.items():
        setattr(info, field, value)
    return info, body


RUN = member("run.sh", b"#!/bin/sh\n", mode=0o755)


def tar(members: Iterable[Member], dialect: int = tarfile.PAX_FORMAT) -> bytes:
    """A plain archive of *members*."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=dialect) as archive:
        for info, body in members:
            archive.addfile(info, io.BytesIO(body))
    return out.getvalue()
