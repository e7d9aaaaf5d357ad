"""The log file of one process key: stamped lines, put aside when it is large. Used by one thread at a time."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import attrs

from .._backlog import Lost
from .._line_splitter import LineSplitter
from .._log_lines import Stream
from .._values import LogSettings, ProcessKey

LONGEST_NAME = 200
"""Bytes of a file's name before its endings; a file system takes 255."""

STAMP_BYTES = len("2026-01-02T03:04:05.678901Z stdout ")
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


@attrs.frozen
class Written:
    """What was read of a stream at once; no data means that this attempt writes no more to it."""

    key: ProcessKey
    generation: int
    stream: Stream
    time: float
    data: bytes
    settings: LogSettings


@attrs.frozen
class Block:
    """Whole lines, stamped, and how many bytes of output they tell of."""

    text: bytes
    size: int


def file_name(key: ProcessKey) -> str:
    """The name of the log file of *key*: its text, with ``%XX`` for what is no letter or digit or one of ``#._+-@=,:``.

    A very long one is cut, and told apart by a digest.
    """
    name = "".join(
        char if char.isalnum() or char in "#._+-@=,:" else "".join(f"%{byte:02X}" for byte in char.encode())
        for char in str(key)
    )
    if name.startswith("."):
        name = f"%2E{name[1:]}"
    encoded = name.encode()
    if len(encoded) > LONGEST_NAME:
        digest = hashlib.sha256(encoded).hexdigest()[:16]
        name = f"{encoded[: LONGEST_NAME - len(digest) - 1].decode(errors='ignore')}~{digest}"
    return f"{name}.log"


class LogFile:
    """Appends what a key writes to its file; open only while it does, so that it costs no descriptor."""

    def __init__(self, directory: Path, key: ProcessKey) -> None:
        self.path = directory / file_name(key)
        self._splitters: dict[Stream, tuple[int, LineSplitter]] = {}
        self._settings = LogSettings()
        self._time = 0.0
        self._missing = 0

    def is_idle(self) -> bool:
        """Whether there is nothing left to write: no unfinished line, and no word about what is missing."""
        return not self._splitters and not self._missing

    def has_ended(self) -> bool:
        """Whether nobody writes to it now."""
        return not self._splitters

    def write(self, items: Sequence[Written | Lost]) -> bool:
        """Append the lines that *items* complete; tells whether there were any.

        Raises:
            OSError: That failed; what is missing is counted, and told before the next line that can be written.
        """
        blocks: list[Block] = []
        missing, self._missing = self._missing, 0
        for item in items:
            for block in self._take(item):
                if missing:
                    blocks.append(self._notice(missing))
                    missing = 0
                blocks.append(block)
            if isinstance(item, Lost):
                missing += item.count
        self._missing = missing
        return self._append(blocks)

    def write_notice(self) -> bool:
        """Say how much is missing; tells whether anything is.

        Raises:
            OSError: That failed.
        """
        missing, self._missing = self._missing, 0
        return self._append([self._notice(missing)] if missing else [])

    # ---- lines

    def _take(self, item: Written | Lost) -> Iterator[Block]:
        """The lines that *item* completes."""
        if isinstance(item, Lost):
            for stream in tuple(self._splitters):
                yield from self._finish(stream)
            return
        self._time, self._settings = item.time, item.settings
        known = self._splitters.get(item.stream)
        if known is not None and (known[0] != item.generation or not item.data):
            yield from self._finish(item.stream)
            known = None
        if not item.data:
            return
        if known is None:
            known = self._splitters[item.stream] = item.generation, LineSplitter()
        splitter = known[1]
        before = splitter.unfinished + len(item.data)
        if lines := splitter.feed(item.data):
            yield Block(self._stamped(item.stream, lines), before - splitter.unfinished)

    def _finish(self, stream: Stream) -> Iterator[Block]:
        _, splitter = self._splitters.pop(stream)
        for line in splitter.flush():
            yield Block(self._stamped(stream, [line]), len(line))

    def _notice(self, missing: int) -> Block:
        return Block(self._stamped("trio-sup", [f"{missing} bytes are missing here".encode()]), missing)

    def _stamped(self, source: str, lines: list[bytes]) -> bytes:
        moment = datetime.fromtimestamp(self._time, UTC).isoformat(timespec="microseconds").removesuffix("+00:00")
        stamp = f"{moment}Z {source} ".encode()
        text = stamp + (b"\n" + stamp).join(lines) + b"\n"
        try:
            text.decode()
        except UnicodeDecodeError:
            text = text.decode("utf-8", "backslashreplace").encode()
        return text

    # ---- the file

    def _append(self, blocks: Sequence[Block]) -> bool:
        text = b"".join(block.text for block in blocks)
        done = 0
        try:
            while done < len(text):
                done = self._append_some(text, done)
        except OSError:
            for block in blocks:
                # A block that was written in part: each of its lines has a stamp that is no output.
                left = block.text[done:]
                self._missing += block.size if done <= 0 else len(left) - left.count(b"\n") * STAMP_BYTES
                done -= len(block.text)
            raise
        return bool(text)

    def _append_some(self, text: bytes, start: int) -> int:
        """Write what fits into the file; tells where that ends. Puts the file aside if nothing does."""
        with _opened(self.path) as (descriptor, size):
            end = len(text)
            if end - start > self._settings.max_bytes - size:
                end = text.rfind(b"\n", start, max(start, start + self._settings.max_bytes - size)) + 1
            if end <= start and not size:
                end = text.index(b"\n", start) + 1  # a line that is longer than a file may be
            if end > start:
                _write_all(descriptor, memoryview(text)[start:end], size)
                return end
        _put_aside(self.path, self._settings.files)
        return start


@contextmanager
def _opened(path: Path) -> Iterator[tuple[int, int]]:
    """The file, for appending at the beginning of a line; and its size."""
    try:
        descriptor = os.open(path, _FLAGS, 0o600)
    except FileNotFoundError:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, _FLAGS, 0o600)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        size = status.st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            # Whoever wrote to it last was interrupted.
            size += os.write(descriptor, b"\n")
        yield descriptor, size
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, text: memoryview, size: int) -> None:
    """Append *text* to a file of *size* bytes, or leave it as it is."""
    try:
        while text:
            text = text[os.write(descriptor, text) :]
    except OSError:
        with suppress(OSError):
            os.ftruncate(descriptor, size)
        raise


def _put_aside(path: Path, files: int) -> None:
    """Make room for a new file: ``x.log`` becomes ``x.log.1``, and so on; keep *files* of them, with the new one."""
    for number in range(files - 1, 0, -1):
        older = path.with_name(f"{path.name}.{number - 1}") if number > 1 else path
        with suppress(FileNotFoundError):
            os.replace(older, path.with_name(f"{path.name}.{number}"))
    with suppress(FileNotFoundError):
        if files == 1:
            path.unlink()
        for number in count(files):  # from a time when more were kept
            path.with_name(f"{path.name}.{number}").unlink()
