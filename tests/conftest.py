"""Fixtures and helpers that several rooms of the tests share."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from pathlib import Path
from typing import TypeVar

import pytest

from trio_sup.engine import EventStream
from trio_sup.events import Event
from trio_sup.guard import _proc
from trio_sup.testing import _traces, plugin

E = TypeVar("E", bound=Event)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # Its entry point does the same, where the project is installed as it is now.
    if not config.pluginmanager.is_registered(plugin):
        config.pluginmanager.register(plugin, "trio_sup")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="a test that lacks a program it needs fails")
    parser.addoption("--chaos-seed", type=int, help="play the chaos of this seed again")


def pytest_collection_finish() -> None:
    # Those who look for leaks collect garbage first, hundreds of times in all: what was made until now, which is most
    # of what there is, need not be gone through each time.
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        missing = [program for program in marker.args if shutil.which(program) is None]
        if missing:
            reason = f"needs {', '.join(missing)}, which is not installed"
            (pytest.fail if item.config.getoption("--no-skips") else pytest.skip)(reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    for program in sorted({str(report.longrepr[2]) for report in skipped if isinstance(report.longrepr, tuple)}):
        terminalreporter.write_line(f"skipped: {program}")


ROOT = Path(__file__).parent.parent
CHILDREN = ROOT / "tests" / "children"


def descriptors() -> set[str]:
    """What this process has open, as texts that stay the same while nothing is opened or closed."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} -> {os.readlink(f'/proc/self/fd/{name}')}")
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
    return found


# As if the tests themselves were a backend of an outer supervisor: what descends from them can be told by it.
os.environ[_proc.MARKER] = _traces.OWN_MARK


def marked_processes() -> list[str]:
    """Every live process that descends from these tests and kept its environment, as text."""
    return [
        f"{process.pid} {_proc.command_of(process.pid)}"
        for process in _proc.scan()
        if process.alive and _traces.OWN_MARK in _proc.markers_of(process.pid)
    ]


def children() -> set[int]:
    """Every child of this process, zombies included."""
    return {process.pid for process in _proc.scan() if process.ppid == os.getpid()}


async def next_of(stream: EventStream, kind: type[E]) -> E:
    """The next event of that kind."""
    async for event in stream:
        if isinstance(event, kind):
            return event
    raise AssertionError(f"the supervisor ended before any {kind.__name__}")


def child_command(name: str, *arguments: str) -> list[str]:
    """The command of the child in ``tests/children`` that is named for its vice."""
    return [sys.executable, str(CHILDREN / f"{name}.py"), *arguments]
