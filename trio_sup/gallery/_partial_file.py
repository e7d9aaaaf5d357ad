"""What has arrived of a download so far, kept on disk so that the next try can go on from there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

CHUNK = 1024 * 1024
"""Bytes that are hashed at once."""


@attrs.define(eq=False)
class PartialFile:
    """A file, and beside it which version of the remote one it is a part of. All methods block.

    Attributes:
        size: Bytes that have arrived.
        validator: What names the version; empty if the address always means the same, None if nobody knows.
        earlier: Some of it is from an earlier try.
    """

    path: Path
    hash: Any = attrs.field(factory=hashlib.sha256, init=False)
    size: int = attrs.field(default=0, init=False)
    validator: str | None = attrs.field(default=None, init=False)
    earlier: bool = attrs.field(default=False, init=False)
    _file: int = attrs.field(default=-1, init=False)

    @property
    def _note(self) -> Path:
        return self.path.with_name(self.path.name + ".json")

    def open(self, checkpoint: Callable[[], None], whole: Path | None = None) -> None:
        """Find what an earlier download has left, and hash it.

        Args:
            checkpoint: Called often; may raise to stop.
            whole: Where a file may be that was complete, and is not to be fetched again if it still is the same.

        Raises:
            OSError: It cannot be opened or read.
        """
        if whole is not None and not self.path.exists() and self._note.exists():
            with contextlib.suppress(FileNotFoundError):
                whole.rename(self.path)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
            validator = json.loads(self._note.read_text()).get("validator")
            self.validator = validator if isinstance(validator, str) else None
        if self.validator is None:
            self.begin(None)
            return
        while data := os.read(self._file, CHUNK):
            checkpoint()
            self.hash.update(data)
            self.size += len(data)
        self.earlier = self.size > 0

    def begin(self, validator: str | None) -> None:
        """Start from nothing; *validator* names the version that is to come."""
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        self.hash, self.size, self.validator, self.earlier = hashlib.sha256(), 0, validator, False
        if validator is None:
            self._note.unlink(missing_ok=True)
        else:
            self._note.write_text(json.dumps({"validator": validator}))

    def add(self, data: bytes) -> None:
        """Write what has arrived next."""
        self.hash.update(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]
        self.size += len(data)

    def finish(self, to: Path, *, keep_note: bool) -> None:
        """It is complete, and from now on called *to*."""
        self.path.replace(to)
        if not keep_note:
            self._note.unlink(missing_ok=True)

    def discard(self) -> None:
        """Throw it away."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def close(self) -> None:
        """Close it, and leave it as it is."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
