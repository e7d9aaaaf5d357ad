"""Exit reports on disk: one file for each key, replaced as a whole, so that no instant shows half of one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import urllib.parse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs

from ._report_tables import plain, report_from
from ._reports import ExitReport
from ._values import ProcessKey
from .errors import TrioSupError

KEPT_REPORTS = 20
"""Exit reports kept per key (design promise P8)."""

_FORMAT = 1
_SUFFIX = ".json"
_UNFINISHED = ".tmp"
# A name may have 255 bytes, and escaped a model can be longer than that.
_LONGEST_NAME = 200
# Far above what 20 reports can come to, and far below what would hurt to read.
_LARGEST_FILE = 64 * 1024 * 1024


@attrs.define(slots=False, eq=False)
class UnreadableFile(TrioSupError):
    """A file with exit reports that cannot be used, or only in part."""

    path: Path
    why: str

    def __str__(self) -> str:
        return f"{self.path} is left out: {self.why}"


@attrs.define
class Found:
    """What was read.

    Attributes:
        reports: The last reports of each key, oldest first.
        problems: One for each file, or report in it, that was left out.
    """

    reports: dict[ProcessKey, tuple[ExitReport, ...]] = attrs.field(factory=dict)
    problems: list[UnreadableFile] = attrs.field(factory=list)


def exits_in(state_dir: Path) -> Path:
    """Where the files are, below a state directory."""
    return state_dir / "exits"


def name_of(key: ProcessKey) -> str:
    """The name of the file for *key*: escaped, since a model may be called anything."""
    name = urllib.parse.quote(str(key), safe="")
    if len(name) > _LONGEST_NAME:
        # "%-" comes of no escaping, so that no other key has this name.
        name = f"{name[:100]}%-{hashlib.sha256(str(key).encode()).hexdigest()[:32]}"
    return name + _SUFFIX


def write(directory: Path, key: ProcessKey, reports: Iterable[ExitReport]) -> None:
    """Put *reports* in the place of what was there for *key*.

    Readers see the old file or the new one. Two writers must not use a directory at the same time.

    Raises:
        OSError: It cannot be written; the old file stays.
    """
    document = {"format": _FORMAT, "key": str(key), "reports": [plain(report) for report in reports]}
    path = directory / name_of(key)
    unfinished = path.with_name(path.name + _UNFINISHED)
    try:
        data = json.dumps(document).encode()
        with open(unfinished, "wb", buffering=0, opener=_open_to_write) as file:
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
        os.replace(unfinished, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)
        raise


def read_all(directory: Path) -> Found:
    """Read what is there; a directory that is not there has nothing.

    One file that cannot be used hides no other.
    """
    found = Found()
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return found
    except OSError as error:
        found.problems.append(UnreadableFile(directory, error.strerror or str(error)))
        return found
    for name in names:
        if name.endswith(_UNFINISHED):
            continue  # its writer was killed before the file was whole; the one before it is still there
        path = directory / name
        try:
            key, reports = _read(path, found.problems)
            found.reports[key] = reports
        except UnreadableFile as problem:
            found.problems.append(problem)
    return found


def remove_unfinished(directory: Path) -> None:
    """Clear away what a killed writer had not finished."""
    for path in directory.glob(f"*{_UNFINISHED}"):
        with contextlib.suppress(OSError):
            path.unlink()


def _read(path: Path, problems: list[UnreadableFile]) -> tuple[ProcessKey, tuple[ExitReport, ...]]:
    document = _document(path)
    try:
        key = ProcessKey.parse(document["key"])
        tables = document["reports"]
        if not isinstance(tables, list):
            raise TypeError(tables)
    except (LookupError, TypeError, ValueError) as error:
        raise UnreadableFile(path, "it holds no exit reports") from error
    if path.name != name_of(key):
        raise UnreadableFile(path, f"it holds the reports of {key}, whose file has another name")
    return key, tuple(_reports(path, key, tables, problems))[-KEPT_REPORTS:]


def _reports(path: Path, key: ProcessKey, tables: list[Any], problems: list[UnreadableFile]) -> Iterator[ExitReport]:
    for number, table in enumerate(tables, start=1):
        try:
            report = report_from(table)
            if report.key != key:
                raise ValueError(f"it is about {report.key}")
            yield report
        except ValueError as error:
            problems.append(UnreadableFile(path, f"report {number} of {len(tables)} cannot be read: {error}"))


def _document(path: Path) -> Any:
    try:
        with open(path, "rb", opener=_open_to_read) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UnreadableFile(path, "it is not a regular file")
            if status.st_size > _LARGEST_FILE:
                raise UnreadableFile(path, f"it has {status.st_size} bytes, which no file of exit reports has")
            data = file.read(_LARGEST_FILE)
    except OSError as error:
        raise UnreadableFile(path, error.strerror or str(error)) from error
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UnreadableFile(path, f"it is not valid JSON: {error}") from error


def _open_to_read(path: str, flags: int) -> int:
    # Not to hang at a pipe that somebody has put there.
    return os.open(path, flags | os.O_NONBLOCK)


def _open_to_write(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
