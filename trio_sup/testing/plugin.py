"""Fixtures for pytest, there as soon as trio-sup is installed. Nothing heavy loads before a fixture is used.

``supervisor`` is asynchronous and needs an async test under pytest-trio.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .. import Supervisor
    from ._fakes import FakeSystem

pytest.register_assert_rewrite("trio_sup.testing.contracts")


@pytest.fixture
def supervisor_options() -> Mapping[str, Any]:
    """The options that `supervisor` is opened with; none. Define a fixture of this name to give some."""
    return {}


@pytest.fixture
async def supervisor(supervisor_options: Mapping[str, Any]) -> AsyncIterator[Supervisor]:
    """An open supervisor on real processes; when the test has ended, every backend is ended."""
    from trio_sup import open_supervisor

    async with open_supervisor(**supervisor_options) as opened:
        yield opened


@pytest.fixture
def fake_system() -> FakeSystem:
    """A stand-in for the operating system whose processes all behave well: ``open_supervisor(system=fake_system)``."""
    from ._fakes import FakeSystem

    return FakeSystem()


@pytest.fixture
def nothing_survives() -> Iterator[None]:
    """Fails the test if it leaves a process, held port, descriptor, file or Trio task behind, and names each.

    Only what this process and its descendants have counts. Meanwhile the runtime directory (``XDG_RUNTIME_DIR``),
    where lock files are by default, is an empty one of the test's own.
    """
    from . import _traces

    directory = Path(tempfile.mkdtemp(prefix="trio-sup-test-"))
    before_it = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(directory)
    try:
        with _traces.marked():
            before = _traces.Traces.now(directory)
            yield
            survived = _traces.Traces.now(directory).beyond(before)
        if survived:
            pytest.fail("survived the test: " + "; ".join(survived), pytrace=False)
    finally:
        if before_it is None:
            os.environ.pop("XDG_RUNTIME_DIR", None)
        else:
            os.environ["XDG_RUNTIME_DIR"] = before_it
        shutil.rmtree(directory, ignore_errors=True)
