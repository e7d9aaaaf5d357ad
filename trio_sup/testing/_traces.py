"""What this process has at one instant, so that two instants can be compared. Loads nothing heavy."""

from __future__ import annotations

import gc
import inspect
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs

from ..guard import _proc

OWN_MARK = f"tests-{os.getpid()}/0"
"""As if this process were a backend of an outer supervisor: what descends from it can be told by this entry."""


@contextmanager
def marked() -> Iterator[None]:
    """For the length of the block, whatever this process starts carries `OWN_MARK` in its environment."""
    before = os.environ.get(_proc.MARKER)
    if before is None or OWN_MARK not in before.split(":"):
        os.environ[_proc.MARKER] = OWN_MARK if before is None else f"{before}:{OWN_MARK}"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_proc.MARKER, None)
        else:
            os.environ[_proc.MARKER] = before


def own_processes() -> dict[int, str]:
    """Every live process that descends from this one and kept its environment, and every child, zombies included."""
    found = {}
    for process in _proc.scan():
        is_child = process.ppid == os.getpid()
        if is_child or (process.alive and process.pid != os.getpid() and OWN_MARK in _proc.markers_of(process.pid)):
            ended = "" if process.alive else ", ended but never waited for"
            found[process.pid] = f"process {process.pid} ({_proc.command_of(process.pid)}{ended})"
    return found


def descriptors() -> dict[int, str]:
    """What this process has open, by number."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the descriptor of the listing itself
            found[int(name)] = f"descriptor {name} ({os.readlink(f'/proc/self/fd/{name}')})"
    return found


def _file_of(number: int) -> tuple[int, int] | None:
    """Which file it is: a number is used again as soon as it has been closed."""
    with suppress(OSError):
        status = os.fstat(number)
        return status.st_dev, status.st_ino
    return None


def ports() -> dict[tuple[str, int], str]:
    """The TCP ports that sockets of this process are bound to, by the socket and the port."""
    found = {}
    for number, text in descriptors().items():
        if "(socket:" not in text:
            continue
        with suppress(OSError), socket.socket(fileno=os.dup(number)) as copy:
            if copy.family in (socket.AF_INET, socket.AF_INET6) and copy.getsockname()[1]:
                host, port = copy.getsockname()[:2]
                found[text.partition(" ")[2], port] = f"port {port} (held on {host} by descriptor {number})"
    return found


def tasks() -> dict[int, str]:
    """The Trio tasks of this process that have not ended, those of other threads included."""
    if "trio" not in sys.modules:
        return {}
    from trio.lowlevel import Task

    return {
        id(thing): f"Trio task {thing.name}"
        for thing in gc.get_objects()
        if type(thing) is Task and _is_unfinished(thing.coro)
    }


def _is_unfinished(coroutine: object) -> bool:
    return inspect.iscoroutine(coroutine) and inspect.getcoroutinestate(coroutine) != inspect.CORO_CLOSED


def files(directory: Path) -> dict[str, str]:
    """What is below *directory* and is no directory."""
    return {str(path): f"file {path}" for path in directory.rglob("*") if not path.is_dir() or path.is_symlink()}


@attrs.frozen
class Traces:
    """Everything of this process that could be left behind, at the instant it was looked at."""

    _found: Mapping[str, Mapping[Any, str]]

    @classmethod
    def now(cls, runtime_directory: Path) -> Traces:
        """Look: at processes, ports, descriptors, files below *runtime_directory*, and Trio tasks."""
        gc.collect()
        looks: dict[str, Mapping[Any, str]] = {
            "processes": own_processes(),
            "ports": ports(),
            "descriptors": {(number, _file_of(number)): text for number, text in descriptors().items()},
            "files": files(runtime_directory),
            "tasks": tasks(),
        }
        return cls(looks)

    def beyond(self, before: Traces) -> list[str]:
        """What is here and was not there *before*, each as text."""
        return [
            text
            for kind, found in self._found.items()
            for thing, text in found.items()
            if thing not in before._found[kind]
        ]
